# SPDX-License-Identifier: Apache-2.0
# An app of a user's: an SDK as its vendor publishes it, and nothing of Sluicegate's.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS build
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/app
COPY app.txt .
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    tools/bin/python -m pip --python /opt/app/bin/python install --quiet --no-cache-dir --no-deps --require-hashes \
    --requirement app.txt
FROM ${BASE_IMAGE}
COPY --from=build /opt/app /opt/app
COPY app.py /app.py
ENV PATH=/opt/app/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
USER 1000:1000
CMD ["python", "/app.py"]
