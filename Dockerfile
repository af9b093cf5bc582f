# A retriever behind an HTTP API. See docs/integrations.md.
#
#   docker build -t dgr-trainer .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/retriever:/retriever:ro" dgr-trainer

FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir "build>=1.2,<2"
COPY pyproject.toml README.md LICENSE ./
COPY dgr_trainer dgr_trainer
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
# An index with builds of torch without CUDA, which are a tenth of the size.
ARG TORCH_INDEX=
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /tmp/constraints.txt "torch>=2.6"
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt "dgr-trainer[serve] @ file://$(echo /tmp/wheels/*.whl)" \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && useradd --create-home --uid 1000 dgr
USER 1000
WORKDIR /home/dgr
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
ENTRYPOINT ["dgr"]
CMD ["serve", "/retriever", "--host", "0.0.0.0"]
