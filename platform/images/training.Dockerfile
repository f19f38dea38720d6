# The image of training, encoding and sampling pods. Build it from the root of the repository:
#
#   buildah bud -f platform/images/training.Dockerfile -t goku-platform:0.1.0 \
#     --build-arg CODE_VERSION=$(git rev-parse HEAD) .
#
# Two layers matter. The dependencies (gigabytes) change with constraints.txt and pyproject.toml
# alone; the code (less than a megabyte) lies above them, so a change of the code moves only that.
# Torch brings CUDA's libraries along and the driver comes from the node. Any base will do that has
# Python 3.11 or newer with venv, or apt to install it. For runs on gs:// or az:// add
# `--extra gcs` or `--extra azure` to EXTRAS.
ARG BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04

FROM ${BASE} AS python
RUN python3 -c 'import ensurepip' || { apt-get update && \
      DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev python3-dev python3-venv && \
      rm -rf /var/lib/apt/lists/*; }

# The wheel is built apart: its tools stay out of the image.
FROM python AS wheel
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir 'hatchling>=1.27'
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY helm helm
COPY goku goku
COPY platform platform
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel

FROM python
ARG EXTRAS="--extra train --extra gpu"
COPY pyproject.toml constraints.txt /opt/requirements/
# uv fills the environment in a tenth of pip's time, and is gone again in the same layer.
# DS_BUILD_OPS=0: no CUDA operator of DeepSpeed is needed, and none is compiled.
RUN python3 -m venv /opt/goku && \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --no-cache-dir uv && \
    DS_BUILD_OPS=0 /tmp/uv/bin/uv pip install --python /opt/goku/bin/python --no-cache \
      --compile-bytecode -c /opt/requirements/constraints.txt \
      -r /opt/requirements/pyproject.toml ${EXTRAS} && \
    rm -rf /tmp/uv
# Triton builds its launchers on first use, and a base that brought Python may have no compiler.
RUN case "${EXTRAS}" in *gpu*) command -v cc || { apt-get update && \
      DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gcc libc6-dev python3-dev && \
      rm -rf /var/lib/apt/lists/*; };; esac

# Pods run with a read-only root: whatever is written goes to /goku or /tmp, which are volumes.
ENV PATH=/opt/goku/bin:${PATH} \
    HOME=/goku \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN install -d -o 1000 -g 1000 /goku

COPY --from=wheel /wheel /opt/wheel
RUN python -m pip install --no-cache-dir --no-index --no-deps --compile /opt/wheel/*.whl

# Last, because it changes with every commit.
ARG CODE_VERSION=""
ENV GOKU_CODE_VERSION=${CODE_VERSION}
USER 1000:1000
WORKDIR /goku
ENTRYPOINT ["python", "-m", "goku_platform.supervisor"]
