# The worker with the model stack. `--build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu`
# takes the small build for hosts without a GPU.
FROM python:3.11-slim
ARG TORCH_INDEX_URL=
# torch.compile and DeepSpeed compile when they are first used.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 tunesmith && install -d -o tunesmith -m 700 /data /artifacts
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX_URL:+--index-url $TORCH_INDEX_URL} \
    "$(grep '^torch==' constraints.txt)"
# torch for GPUs cannot be imported, as DeepSpeed's build does, without the libraries it needs.
RUN pip install --no-cache-dir --constraint constraints.txt torch setuptools wheel ninja \
    && DS_BUILD_OPS=0 pip install --no-cache-dir --constraint constraints.txt \
    --no-build-isolation deepspeed
COPY api ./api
COPY cli ./cli
COPY jobs ./jobs
COPY migrations ./migrations
COPY training ./training
COPY worker ./worker
RUN pip install --no-cache-dir --constraint constraints.txt '.[worker,training,postgres,redis,wandb,mlflow]'
USER tunesmith
ENV TUNESMITH_DATA_DIR=/data
CMD ["tunesmith", "worker"]
