# The API, and the commands `tunesmith` and `python -m cli.bootstrap`: no torch inside.
FROM python:3.11-slim
RUN useradd --create-home --uid 10001 tunesmith && install -d -o tunesmith -m 700 /data /artifacts
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY api ./api
COPY cli ./cli
COPY jobs ./jobs
COPY migrations ./migrations
COPY training ./training
COPY worker ./worker
RUN pip install --no-cache-dir --constraint constraints.txt '.[api,postgres,redis]'
USER tunesmith
ENV TUNESMITH_DATA_DIR=/data
EXPOSE 8642
CMD ["python", "-m", "api.server", "--host", "0.0.0.0", "--port", "8642"]
