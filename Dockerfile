# syntax=docker/dockerfile:1
# One image for all parts: the pipeline, its flows, the servers of MLflow and Prefect, the nodes of a Ray cluster.
#     docker build --tag videomar:cuda .                           torch with CUDA 13
#     docker build --tag videomar:cpu --build-arg TORCH=cpu .      torch without CUDA
# CUDA comes with torch's packages: the host needs a driver for CUDA 13 and NVIDIA's container toolkit, no more.
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS packages
ARG TORCH=default
WORKDIR /build
COPY install.py requirements-image.lock ./
# torch and CUDA are most of the bytes and change least, so they become a layer of their own.
RUN --mount=type=cache,target=/root/.cache/pip \
    python install.py --packages requirements-image.lock --torch "$TORCH" --venv /opt/videomar \
    && site=$(echo /opt/videomar/lib/python3.*/site-packages) \
    && mkdir -p "/torch$site" \
    && find "$site" -maxdepth 1 '(' -name nvidia -o -name torch -o -name triton ')' -exec mv -t "/torch$site" '{}' +

FROM packages AS project
COPY . .
RUN /opt/videomar/bin/python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels .

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title=videomar \
    org.opencontainers.image.licenses=Apache-2.0 \
    org.opencontainers.image.revision=$REVISION
# git: runs are named by their commit. wget: health checks, also those of KubeRay.
# Debian keeps no old versions, so they cannot be pinned here; BASE pins the rest of the system.
# A volume may belong to another user, and a cluster's nodes see the same one, so git must not refuse it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git wget \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory '*' \
    && git config --system user.name videomar \
    && git config --system user.email videomar@localhost \
    && useradd --uid 1000 --user-group --create-home --shell /bin/bash videomar \
    && install --directory --owner=videomar --group=videomar /work
COPY --from=packages /torch/ /
COPY --from=packages /opt/videomar /opt/videomar
RUN --mount=type=bind,from=project,source=/wheels,target=/wheels \
    /opt/videomar/bin/python -m pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

# The stages take this Python, whatever .venv a mounted checkout has. LOGNAME: for users without an entry in passwd.
# NVIDIA_VISIBLE_DEVICES is not set on purpose: in a cluster it would give a container GPUs that it did not ask for.
ENV PATH=/opt/videomar/bin:$PATH \
    VIRTUAL_ENV=/opt/videomar \
    VIDEOMAR_PYTHON=/opt/videomar/bin/python \
    LOGNAME=videomar \
    PYTHONUTF8=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    RAY_USAGE_STATS_ENABLED=0
# What says that a server is up: a page, or a file it writes. Empty for commands that end by themselves.
ENV VIDEOMAR_HEALTH=""
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=5 \
    CMD ["sh", "-c", "case $VIDEOMAR_HEALTH in *://*) wget -q -O /dev/null $VIDEOMAR_HEALTH ;; ?*) test -e $VIDEOMAR_HEALTH ;; esac"]
USER 1000:1000
# The pipeline's folder: a clone, or what `videomar init` writes.
WORKDIR /work
CMD ["videomar", "--help"]
