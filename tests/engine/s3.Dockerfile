# Stand-in for the object store, where no registry can be reached: moto, which keeps objects in
# memory and accepts every key. It shows that the stack speaks S3, not that SeaweedFS works.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir "moto[server]"
ENTRYPOINT ["sh", "-c", "exec /venv/bin/moto_server --host 0.0.0.0 --port 8333"]
