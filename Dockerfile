# The driver's image (docs/adr/0014). `hack/image FILE` builds it, also where no registry is reachable; so do `docker build .` and
# `buildah bud .`. Nothing here depends on the architecture: the lock holds the hashes of the wheels of all of them.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS base
# No USER: `modelcsi node` mounts, which takes root. `modelcsi controller` needs none; run it as nonroot (65532). Both run on a
# read-only root file system and write only where the configuration says (store, sockets).
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates libfuse3-4 \
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/debconf/*-old \
 && echo 'nonroot:x:65532:' >>/etc/group \
 && echo 'nonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin' >>/etc/passwd

# pyfuse3 alone comes as source only. Its hash is locked as the others', its C file is in it, and Debian's setuptools builds it: nothing
# without a hash is fetched. The compiler stays in this stage.
FROM base AS pyfuse3
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libfuse3-dev pkgconf python3-dev python3-pip python3-setuptools-scm \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /tmp/
RUN awk '/^[^ ]/ {is = /^pyfuse3==/} is' /tmp/requirements.lock >/tmp/pyfuse3.lock \
 && pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --no-binary :all: --require-hashes --wheel-dir /wheels \
      -r /tmp/pyfuse3.lock

FROM base AS dependencies
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils python3-pip python3-setuptools \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /tmp/
COPY --from=pyfuse3 /wheels /wheels
# pip stays outside the environment. Only wheels: no compiler is here, and no set-up script of a package runs.
# The .pyc are never compared with their sources (unchecked-hash): a builder that changes the files' times makes none of them
# stale, and a read-only root could not hold new ones. kubernetes.aio is the same client for asyncio: nothing imports it.
RUN python3 -m venv --without-pip /opt/venv \
 && awk '/^[^ ]/ {is = /^pyfuse3==/} !is' /tmp/requirements.lock >/tmp/wheels.lock \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --only-binary :all: --require-hashes \
      -r /tmp/wheels.lock \
 && pip --python /opt/venv/bin/python install --no-deps --no-index --no-compile /wheels/*.whl \
 && rm -r /opt/venv/lib/python3*/site-packages/kubernetes/aio \
 && find /opt/venv -name '*.so*' -type f -exec strip --strip-unneeded {} + \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM dependencies AS project
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
# Debian's setuptools makes the wheel: nothing without a hash is fetched. Only the project's own files are
# below /project, so that they are a layer of their own: an upgrade of the driver alone is a pull of 1 MB.
RUN pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /tmp /src \
 && pip --python /opt/venv/bin/python install --no-deps --no-index --no-compile --root /project /tmp/*.whl \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -s /project -p / /project/opt/venv/lib \
 && mkdir -p /project/usr/bin \
 && ln -s /opt/venv/bin/model-csi-driver /opt/venv/bin/modelcsi /opt/venv/bin/model-csi-cli /project/usr/bin/

FROM base
ENV PYTHONDONTWRITEBYTECODE=1
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /project/ /
ARG VERSION=unknown
LABEL org.opencontainers.image.title="model-csi-driver" \
      org.opencontainers.image.description="A Kubernetes CSI driver that mounts AI models, packaged as OCI artifacts, read-only into pods" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["/usr/bin/model-csi-driver"]
