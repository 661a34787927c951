# One file for the four services, the set-up step and the demo:
#   docker build --build-arg SERVICE=dispatcher -t carillon-dispatcher .
#   docker build --target setup -t carillon-setup .

# The image that it runs in needs no pip: the base image's own fills the virtual environment from outside.
# LOCK=requirements-otel.lock adds OpenTelemetry (docs/tracing.md).
FROM python:3.13-slim-trixie AS dependencies
ARG LOCK=requirements.lock
COPY $LOCK /requirements.lock
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement /requirements.lock \
 && mv /venv/bin/dbmate /dbmate \
 && find /venv/lib -depth \( -type d -name tests -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) \
        -exec rm -r {} +

FROM python:3.13-slim-trixie AS runtime
RUN groupadd --gid 10001 carillon && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin carillon
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Carillon" \
      org.opencontainers.image.description="Calls any URL at the time you said, and tells a person when it never answered" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# Migrations of every service and the broker's topology, as one job; and the generator of passwords, which writes
# into a volume that inherits the owner of /secrets.
FROM runtime AS setup
RUN install --directory --owner=10001 --group=10001 --mode=0700 /secrets
COPY --from=dependencies /dbmate /venv/bin/dbmate
COPY deploy/__init__.py deploy/setup.py deploy/secrets.py deploy/
COPY services/ services/
COPY libs/ libs/
USER 10001:10001
CMD ["python", "-m", "deploy.setup"]

# A receiver to call, and what schedules calls to it and watches them.
FROM runtime AS demo
COPY deploy/__init__.py deploy/
COPY deploy/demo/ deploy/demo/
USER 10001:10001
CMD ["python", "-m", "deploy.demo.watch"]

# The COPY lines take what one service may know, so the image proves that it imports no other. The bytecode is for a
# read-only root; unchecked, because nothing in an image changes under it.
FROM runtime AS service
ARG SERVICE
ENV SERVICE=$SERVICE
RUN case "$SERVICE" in ingest|scheduler|dispatcher|mailer) ;; \
      *) echo "build with --build-arg SERVICE=ingest|scheduler|dispatcher|mailer" >&2; exit 1;; esac
COPY libs/ libs/
COPY services/${SERVICE}/ services/${SERVICE}/
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s \
    CMD ["python", "-m", "libs.common.probe"]
CMD ["sh", "-c", "exec python -m services.$SERVICE"]
