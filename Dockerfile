FROM python:3.12-slim
WORKDIR /detfuse
COPY pyproject.toml README.md LICENSE ./
COPY detfuse detfuse
COPY conf conf
RUN pip install --no-cache-dir .
WORKDIR /workspace
ENTRYPOINT ["detfuse-train"]
