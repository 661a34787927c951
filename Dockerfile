# One file for the four services and the set-up step:
#   docker build --build-arg SERVICE=dispatcher -t carillon-dispatcher .
#   docker build --target setup -t carillon-setup .

FROM python:3.13-slim-trixie AS dependencies
COPY requirements.lock /requirements.lock
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /requirements.lock

FROM python:3.13-slim-trixie AS runtime
LABEL org.opencontainers.image.title="Carillon" \
      org.opencontainers.image.description="Calls any URL at the time you said, and tells a person when it never answered" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 carillon && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin carillon
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
STOPSIGNAL SIGTERM

# Migrations of every service and the broker's topology, as one job.
FROM runtime AS setup
COPY deploy/__init__.py deploy/setup.py deploy/
COPY services/ services/
COPY libs/ libs/
USER 10001:10001
CMD ["python", "-m", "deploy.setup"]

# The last two COPY lines take what one service may know, so the image proves that it imports no other.
FROM runtime AS service
ARG SERVICE
ENV SERVICE=$SERVICE
RUN case "$SERVICE" in ingest|scheduler|dispatcher|mailer) ;; \
      *) echo "build with --build-arg SERVICE=ingest|scheduler|dispatcher|mailer" >&2; exit 1;; esac
COPY libs/ libs/
COPY services/${SERVICE}/ services/${SERVICE}/
USER 10001:10001
CMD ["sh", "-c", "exec python -m services.$SERVICE"]
