#!/bin/bash
# A training on 4 machines with 8 GPUs each. It goes on in a new job after each job's end, until it is done:
#
#     sbatch training/configs/accelerate/slurm.sh training/train_dit.py --config training/configs/dit_paper_285s.yaml \
#         --latents latents --clap runs/clap/clap --init_from runs/dit_190s/dit --output_dir runs/dit_285s
#
# Ten minutes before its end the job gets SIGUSR1. All processes then save, and end with exit code 75; the job is queued
# again and goes on from there. A job that is cancelled or preempted gets SIGTERM, saves likewise if it is left the time
# (KillWait, GraceTime), and is not queued again by this script; preemption with requeueing does so itself.
#
# srun starts the processes, not `accelerate launch`: a launcher kills them 30 s after a signal.
#SBATCH --job-name=longform
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*} # the first line; with `| head`, scontrol may end in a broken pipe
export MASTER_ADDR MASTER_PORT=29500
# As in fsdp2.yaml, for training/train_dit.py. The other scripts train by DDP: take these two lines out.
export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
export FSDP_TRANSFORMER_CLS_TO_WRAP=DiTBlock FSDP_RESHARD_AFTER_FORWARD=true FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT

# In single quotes: what Slurm says of a task is known in the task only. `exec`: the signal must reach Python.
srun --kill-on-bad-exit=0 --wait=300 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python "$@"' task "$@" &
step=$!
is_ending=no is_interrupted=no
trap 'is_ending=yes is_interrupted=yes; kill -USR1 "$step"' USR1

code=0
wait "$step" || code=$?
while [ $is_interrupted = yes ]; do # the signal has ended the waiting, not srun, which passes it on to the tasks
    is_interrupted=no code=0
    wait "$step" || code=$?
done
if [ $code = 75 ] && [ $is_ending = yes ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
