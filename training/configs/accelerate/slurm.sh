#!/bin/bash
# The second stage of the transformer on 4 machines with 8 GPUs each: sbatch training/configs/accelerate/slurm.sh
# A job that is stopped or preempted is queued again and goes on from its newest checkpoint.
#SBATCH --job-name=dit_285s
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/dit_285s-%j.log
set -euo pipefail
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# In single quotes: SLURM_PROCID is known in the tasks only.
srun bash -c 'accelerate launch --config_file training/configs/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * 8)) --machine_rank "$SLURM_PROCID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port 29500 \
    training/train_dit.py --config training/configs/dit_paper_285s.yaml --latents latents --clap runs/clap/clap \
    --init_from runs/dit_190s/dit --output_dir runs/dit_285s'
