#!/usr/bin/env bash
# Installs what the tests' cluster needs, by apt. Ends with status 0 once it is there, and 1, with the reason, if it cannot be.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
missing() {
  local program
  for program in munged slurmctld slurmd sbatch srun scontrol; do
    command -v "$program" >/dev/null || { echo "$program"; return; }
  done
}
give_up() {
  echo "SLURM could not be installed: $*. Its tests were not run." >&2
  exit 1
}

[[ -n $(missing) ]] || exit 0
command -v apt-get >/dev/null || give_up "$(missing) is missing, and there is no apt-get; install slurm-wlm and munge"
as_root=()
if ((EUID)); then
  sudo -n true 2>/dev/null || give_up "$(missing) is missing, and apt-get needs root; install slurm-wlm and munge"
  as_root=(sudo -n)
fi
# Charliecloud runs the test of a job in a container; without it that test is skipped.
echo "installing slurm-wlm, munge and charliecloud-runtime"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge charliecloud-runtime; } \
  >"$log" 2>&1 || give_up "apt-get failed: $(tail -n 5 "$log")"
[[ -z $(missing) ]] || give_up "$(missing) is still missing after the installation"
