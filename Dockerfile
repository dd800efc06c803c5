# An image that predicts, serves a model or runs the workflow, on CPUs; docs/containers.md says how.
#
#     docker build --tag adafocus .
#
# PyTorch's usual builds come with 4 GB for GPUs. Its builds for CPUs are on an index of their own,
# which its page on installation names: add --build-arg TORCH_INDEX=...
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/adafocus/bin:$PATH
RUN python3 -m venv /opt/adafocus
WORKDIR /source
COPY requirements.lock .
RUN pip install --constraint requirements.lock \
    ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} torch torchvision
COPY . .
RUN pip install --constraint requirements.lock \
    ".[cluster,export,onnx,plots,postgres,sweep,tracking,workflow]"

FROM ${PYTHON}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libarchive-tools \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home adafocus
COPY --from=build /opt/adafocus /opt/adafocus
# Caches of Snakemake, Matplotlib and torchvision, for whichever user runs it.
ENV PATH=/opt/adafocus/bin:$PATH XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/cache/matplotlib
USER adafocus
WORKDIR /home/adafocus
CMD ["adafocus", "--help"]
