# lit_cartridges on a CUDA machine, by the same install steps and the same constraints as everywhere else:
#   docker build -t lit_cartridges .
#   docker run --gpus all --shm-size 8g -v "$PWD/runs:/opt/lit_cartridges/runs" lit_cartridges make demo
# And what serves on vLLM, which is in an environment of its own:
#   docker build --target serve -t lit_cartridges-serve .
#   docker run --gpus all --shm-size 8g -p 127.0.0.1:8000:8000 -e LIT_CARTRIDGES_API_KEY=… -v "$PWD/runs:/opt/lit_cartridges/runs" \
#     -v "$HOME/.cache/huggingface:/root/.cache/huggingface" lit_cartridges-serve
# The devel image brings the compiler that DeepSpeed's extensions and Triton need; its CUDA is the one that the pinned
# torch is built for. torch itself carries the rest of CUDA.
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu22.04
FROM ${CUDA_IMAGE} AS base

ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
# Python 3.11 comes from the deadsnakes archive: Ubuntu 22.04's own is a release candidate.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git gnupg make software-properties-common \
 && add-apt-repository -y ppa:deadsnakes/ppa \
 && apt-get update \
 && apt-get install -y --no-install-recommends python3.11 python3.11-dev python3.11-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/lit_cartridges
COPY . .
RUN make install PYTHON=python3.11
# `docker build --build-arg EXTRAS=deepspeed .` adds it; DeepSpeed's build asks the installed torch, so no isolation.
ARG EXTRAS=
RUN if [ -n "$EXTRAS" ]; then \
      .venv/bin/python -m pip install -c .venv/constraints.txt --no-build-isolation -e ".[$EXTRAS]"; \
    fi

ENV PATH=/opt/lit_cartridges/.venv/bin:$PATH

# The range that lit_cartridges/serving/vllm checks at the start.
FROM base AS serve
ARG VLLM="vllm>=0.32,<0.33"
RUN python3.11 -m venv /opt/vllm && /opt/vllm/bin/python -m pip install "$VLLM"
ENV LIT_CARTRIDGES_VLLM=/opt/vllm
EXPOSE 8000
# What is typed behind the image's name are further options of `serve`. SIGTERM, as `docker stop` sends it, lets requests end.
ENTRYPOINT ["lit-cartridges", "serve", "runs", "--host", "0.0.0.0", "--engine", "vllm"]
HEALTHCHECK --start-period=20m CMD python3.11 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"

# The last one is what is built where none is named.
FROM base
CMD ["lit-cartridges", "--help"]
