"""What Snakemake has no public interface for; pyproject.toml bounds its version for this file's
sake. Nothing else asks `workflow` for more than its folder."""

import shutil


def is_main_process():
    """Whether this is the call of snakemake, not the process of one of its jobs."""
    return workflow.is_main_process


def is_on_cluster():
    """Whether a scheduler takes the jobs."""
    return workflow.nodes is not None or workflow.remote_exec


def offer_gpus(count):
    """Lets jobs share so many GPUs, unless ``--resources gpu=...`` offers others."""
    if count and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", count)


def targets_asked_for():
    """What this call of snakemake names; empty where it names nothing."""
    return workflow.dag_settings.targets


def jobs_to_run():
    """The jobs of this call, once they are known."""
    return workflow.dag.needrun_jobs()


def jobs_before(job):
    """Those whose outputs a job takes, done or not."""
    return workflow.dag.job_dependencies(job)


def make_default(rule):
    """What a call that names no target makes; ``default_target`` of a file that another includes
    does not count. Does nothing in a module: another file is the main one then."""
    if workflow.modifier.is_main_snakefile():
        workflow.default_target = rule


def is_quiet():
    """Whether this call is to print less than Snakemake does."""
    return bool(workflow.output_settings.quiet)


def is_printed_by_plugin():
    """Whether a logger that this call names (``--logger``) prints in the place of Snakemake."""
    return any(plugin.writes_to_stream for plugin in workflow.logger_manager.get_log_handlers())


def remove_locks():
    """What ``snakemake --unlock`` does, which is a call of its own."""
    shutil.rmtree(".snakemake/locks", ignore_errors=True)


def names_of_rules():
    """Those that are read so far."""
    return {rule.name for rule in workflow.rules}
