# SPDX-License-Identifier: Apache-2.0
# One image for all parts: broker, operator, injector, sidecar and the command line (the parts of it that need no
# plotting). Any Debian-like base with python3 >= 3.11 and its venv module does. `make images` builds it.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
# 1: the broker's core is compiled, for half the CPU of a decision. 0: it is not, and no compiler is installed.
ARG COMPILE=1
WORKDIR /build
RUN [ "$COMPILE" = 0 ] || { apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev \
    $([ -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || echo python3-dev); }
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/sluicegate
COPY requirements/build.txt requirements/image.txt requirements/
# `pip-conf` and `ca` are optional: how this machine reaches its package index. They never become part of a layer.
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    tools/bin/python -m pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement requirements/build.txt \
    && tools/bin/python -m pip --python /opt/sluicegate/bin/python install --quiet --no-cache-dir --no-deps --require-hashes \
       --only-binary :all: --requirement requirements/image.txt \
    && find /opt/sluicegate -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
COPY . .
RUN SLUICEGATE_COMPILE=$COMPILE tools/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/python -m pip --python /opt/sluicegate/bin/python install --quiet --no-deps --no-index dist/*.whl \
    && cp /etc/passwd passwd && echo 'sluicegate:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> passwd

FROM ${BASE_IMAGE}
COPY --from=build /build/passwd /etc/passwd
COPY --from=build /opt/sluicegate /opt/sluicegate
ENV PATH=/opt/sluicegate/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
CMD ["sluicegate", "--help"]
