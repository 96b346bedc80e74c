# What the jobs of this folder share: the command, the rendezvous, one attempt at the work, and starting it again.
#
# Every attempt goes on from the run folder's last checkpoint, so a job that is started again needs nothing but the same
# command. SLURM starts it again after a preemption, `scontrol requeue` or a node's failure. This file does so after all
# other ends: the signal before the time limit, a task that was told to stop or died. It gives up, and the job fails, after
# MAX_RESTARTS attempts in a row that left no new checkpoint, so a run that fails by itself ends.
#
# VENV          environment with lit_cartridges, seen by all nodes; .venv by default
# CONTAINER     command that runs what follows it in a container, in place of VENV: "apptainer exec --nv image.sif"
# SRUN_OPTIONS  more options for the srun of the training; of pyxis: CONTAINER=env SRUN_OPTIONS=--container-image=…
# MAX_RESTARTS  3 by default
set -euo pipefail

fail() {
  echo "$SLURM_JOB_NAME: $*" >&2
  exit 2
}

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
attempt=${SLURM_RESTART_COUNT:-0}
max_restarts=${MAX_RESTARTS:-3}
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS=$max_restarts must be a whole number, 0 or more"

# The command. `python` is an array, since a container is several words.
venv=$(realpath --canonicalize-missing "${VENV:-.venv}")
if [[ -n ${CONTAINER:-} ]]; then
  read -ra python <<<"$CONTAINER python"
else
  [[ -x $venv/bin/python ]] || fail "VENV=${VENV:-.venv} has no bin/python; give an environment with lit_cartridges, or CONTAINER"
  export PATH="$venv/bin:$PATH" # DeepSpeed calls ninja
  python=("$venv/bin/python")
fi
read -ra srun_options <<<"${SRUN_OPTIONS:-}"

# NCCL finds the fastest way between GPUs by itself. If it hangs at the start, it has chosen a network that does not lead
# to the other nodes: NCCL_DEBUG=INFO prints the choice, NCCL_SOCKET_IFNAME=ib0 (a name of `ip link`) and NCCL_IB_HCA=mlx5
# restrict it. Whatever is set where sbatch is called reaches the tasks.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# A collective that another task has left (it died) fails instead of waiting for ever.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}
# Else every task would start as many threads as its node has cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK_HET_GROUP_0:-1}}}

# address_of NODE: SLURM's own address of it, which needs no name service.
address_of() {
  local address
  address=$(scontrol show node --oneliner "$1" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  echo "${address:-$1}"
}

# rendezvous NODES: where the tasks meet, on the first of the nodes. The port changes with every attempt, so that what is
# left of the last one cannot join; it is below 32768, where clients get theirs.
rendezvous() {
  MASTER_ADDR=$(address_of "$(scontrol show hostnames "$1" | head -n 1)")
  MASTER_PORT=$((20000 + (SLURM_JOB_ID * 16 + attempt) % 10000))
  export MASTER_ADDR MASTER_PORT
}

# answers HOST PORT: does a server there say that it is well? In bash alone, since a node may have no curl.
answers() {
  local status
  status=$({ exec 3<>"/dev/tcp/$1/$2" && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3; } 2>/dev/null) || true
  [[ $status == *" 200"* ]]
}

# in_run FOLDER: the folder of the run; in its slurm/ the logs, one per attempt and node.
in_run() {
  run=$1
  checkpoint_before=$(last_checkpoint)
  mkdir -p "$run/slurm"
  log="$run/slurm/$job-attempt$attempt-node%n.log"
  echo "$(date '+%F %T') attempt $attempt of job $job on $SLURM_JOB_NODELIST, logs: $log"
}

# launch OPTIONS… COMMAND…: srun. SLURM's signals reach the tasks by themselves. They must not reach srun too, which
# would kill the tasks at once, so it runs in a session of its own; and this shell waits for its end. The first task to
# end gives the others a minute, to save or to notice that it died, and then they are killed.
told=
trap 'told=yes' TERM
launch() {
  setsid --wait srun --kill-on-bad-exit=0 --wait=60 --label "$@"
}

# fit TASKS_PER_NODE NODES SRUN_OPTIONS… -- ARGUMENTS…: one attempt at the training; its status is the attempt's.
fit() {
  local tasks=$1 nodes=$2 options=()
  shift 2
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  launch --output="$log" "${options[@]}" "${srun_options[@]}" "${python[@]}" -m lit_cartridges.cli fit "$@" \
    --trainer.default_root_dir "$run" --trainer.devices "$tasks" --trainer.num_nodes "$nodes" --resume auto
}

# Changes when a checkpoint is renamed into place.
last_checkpoint() {
  stat --format=%i-%Y "$run/checkpoints/last.ckpt" 2>/dev/null || true
}

# end_or_start_again STATUS: what follows an attempt.
end_or_start_again() {
  local status=$1 state restarts=0 kept="$run/slurm/$job.restarts"
  echo "$(date '+%F %T') attempt $attempt ended with status $status"
  if ((status == 0)); then
    rm -f "$kept"
    exit 0
  fi
  # A controller that does not answer may do so a little later.
  for _ in {1..20}; do
    if state=$(squeue --noheader --jobs="$job" --format=%T | sort --unique); then break; fi
    sleep 30
  done
  if [[ ${state:-} != RUNNING ]]; then
    echo "SLURM itself has ended this attempt: requeued or cancelled"
    exit "$status"
  fi
  if [[ $(last_checkpoint) == "$checkpoint_before" && -f $kept ]]; then
    restarts=$(<"$kept")
  fi
  if ((restarts >= max_restarts)); then
    rm -f "$kept"
    fail "MAX_RESTARTS=$max_restarts restarts left no new checkpoint; see the logs in $run/slurm, then submit again"
  fi
  echo $((restarts + 1)) >"$kept"
  echo "starting again: restart $((restarts + 1)) of at most $max_restarts without a new checkpoint"
  scontrol requeue "$job"
  exit "$status"
}
