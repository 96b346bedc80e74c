#!/usr/bin/env bash
# Installs vLLM for the CPU in an environment of its own, about 3.4 GB:  tests/vllm/install.sh FOLDER [PYTHON]
# `make test-vllm` calls it. It says so when this machine is none that vLLM's CPU build runs on.
set -euo pipefail
folder=$1 python=${2:-python3.11}
list=$(dirname "${BASH_SOURCE[0]}")/requirements.txt

fail() { echo "vLLM could not be installed in $folder: $*. The tests of make test-vllm have not run." >&2; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || fail "its CPU build is for Linux on x86_64, this is $(uname -sm)"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || fail "it needs Python 3.11 to 3.13, PYTHON=$python is another"
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder" || fail "no virtual environment there"
"$folder/bin/python" -m pip install --quiet --no-deps -r "$list" || fail "pip could not install $list"
# Where an index offers torch's CUDA build only, vLLM's CPU kernels would not load.
"$folder/bin/python" - <<'PYTHON' || fail "its kernels do not load; torch 2.13.0 must be the CPU build"
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()  # those of this CPU
torch.ops._C.cpu_attn_reshape_and_cache
assert torch.version.cuda is None, f"torch {torch.__version__} is a CUDA build"
PYTHON
