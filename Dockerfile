# syntax=docker/dockerfile:1
FROM python:3.11.11-slim-bookworm AS build
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_NO_PROGRESS=1 UV_COMPILE_BYTECODE=1
RUN python -m venv /srv/talktime/.venv \
    && python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /srv/talktime
COPY pyproject.toml requirements.lock README.md ./
# The project's own dependencies only, without its extras; every package at the version and hash of the lock. One that
# the lock does not hold stops the build.
RUN VIRTUAL_ENV=.venv uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml
COPY app app
COPY talktime talktime
RUN VIRTUAL_ENV=.venv uv pip install --no-deps --build-constraint requirements.lock --editable .

# The installation is editable, so that the image is laid out as a checkout: alembic.ini and migrations beside app.
FROM python:3.11.11-slim-bookworm
ENV PATH=/srv/talktime/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 talktime \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin talktime
WORKDIR /srv/talktime
COPY --from=build /srv/talktime /srv/talktime
COPY alembic.ini ./
COPY migrations migrations
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["talktime", "serve", "--host", "0.0.0.0"]
