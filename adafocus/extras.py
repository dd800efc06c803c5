"""What is installed only by an extra, such as `pip install 'adafocus[plots]'`."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "workflow": ("pandas", "psutil", "requests", "scipy", "sklearn", "snakemake"),
    "tracking": ("alembic", "mlflow", "pandas", "psutil", "sklearn"),
    "plots": ("matplotlib", "pandas"),
    "sweep": ("optuna", "ray", "sklearn"),
    "export": ("onnxscript",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino", "onnxscript"),
    "hub": ("httpx2", "huggingface_hub"),
    "youtube": ("yt_dlp",),
}
"""What each extra of pyproject.toml is imported as."""


class MissingExtra(ValueError):
    """What is asked for needs an extra; the message is one line that names it."""

    def __init__(self, module: str, *extras: str) -> None:
        names = ",".join(extras)
        super().__init__(f"{module} is not installed: pip install 'adafocus[{names}]'")


def require(*extras: str) -> None:
    """Raises `MissingExtra` unless all that these extras bring is there.

    Asked before long work begins, so that its end does not fail for want of a package.
    """
    missing = [
        (module, extra) for extra in extras for module in EXTRAS[extra] if find_spec(module) is None
    ]
    if missing:
        lacking = dict.fromkeys(extra for _, extra in missing)
        raise MissingExtra(missing[0][0], *lacking)


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The same of an import that failed; None where no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    return next(
        (MissingExtra(module, extra) for extra, modules in EXTRAS.items() if module in modules),
        None,
    )
