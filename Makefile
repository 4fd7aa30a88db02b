# `make music` and `make test` set everything up on first use; `make` lists what else there is.
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON = $(VENV)/bin/python
INSTALLED = $(VENV)/installed
RUN ?= runs/train-tiny
SOUNDFONT ?=
STEPS ?= 10
# Keeps freed memory in the process: fresh pages are what a CPU training waits for most.
TRAIN = env MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(PYTHON)
FEW_STEPS = --max_steps $(STEPS) --save_every $(STEPS) --validate_every $(STEPS) --num_workers 0

# A checkout of stable-audio-tools whose requirements $(PYTHON) has is measured too.
STABLE_AUDIO_TOOLS ?=
WITH_PEER = $(if $(STABLE_AUDIO_TOOLS),--stable_audio_tools $(STABLE_AUDIO_TOOLS))

# Of `make train-embedded`.
MINUTES ?= 600
DEVICE ?= cpu
OUT ?= runs/embedded

# Of `make distill-embedded`: further options of training/distill_dit.py (`--rank 0` trains all weights instead of an
# adapter), and the seconds of its window and of the pieces that are compared.
DISTILLED ?= runs/steps8
DISTILL ?=
DISTILL_WINDOW ?= 47.55
DISTILL_PIECE ?= 30

# Of `make gpu-check`; on a machine without a GPU: GPU_CHECK="--size tiny --window 64 --steps 2".
GPU_CHECK ?= --device cuda --fp8

.PHONY: help music test test-browser test-docs test-slow lint format types train-tiny train-embedded distill-embedded benchmarks gpu-check docs

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

music: $(INSTALLED)  ## write music.wav, 4m45s, with the included checkpoint
	$(VENV)/bin/stable-longform generate "Genre: Piano|Instruments: Piano|BPM: 90|Key: C major" --seed 1 --overwrite -o music.wav

test: $(INSTALLED)  ## run the test suite
	$(PYTHON) -m pytest -n 2 --dist loadfile

# The pages of the app and of the listening test, in Chromium.
test-browser: $(INSTALLED)  ## run the tests in Chromium
	$(PYTHON) -m pytest -n 2 --dist loadfile -m browser

# The notebooks and the tutorial, with tiny settings.
test-docs: $(INSTALLED)  ## run the notebooks and the tutorial
	$(PYTHON) -m pytest -n 2 -m docs

test-slow: $(INSTALLED)  ## run the tests that take long
	$(PYTHON) -m pytest -n 2 --dist loadfile -m slow

lint: $(INSTALLED)  ## check the style of the code
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(INSTALLED)  ## correct the style of the code
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: $(INSTALLED)  ## check the types with mypy
	$(PYTHON) -m mypy

# The site, in build/site; a broken link or an unknown name is an error.
docs: $(INSTALLED)  ## build the site in build/site
	$(PYTHON) -m pip install --quiet -e ".[docs]" -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# The tables of docs/benchmarks.md in one run, 40 minutes on two cores with nothing else running.
benchmarks: $(INSTALLED)  ## measure the tables under Results in docs/benchmarks.md (40 minutes)
	$(PYTHON) benchmarks/decode.py --size paper --seconds 8 --repeats 3 $(WITH_PEER)
	$(PYTHON) benchmarks/decode.py --size embedded --seconds 30 285 --part 30 --peers tiled --repeats 1
	$(PYTHON) benchmarks/transformer_step.py --num_layers 2 --lengths 1024 $(WITH_PEER)
	$(PYTHON) benchmarks/transformer_step.py --num_layers 2 --lengths 1024 --dtype bfloat16 $(WITH_PEER)
	$(PYTHON) benchmarks/transformer_step.py --num_layers 1 --lengths 6144 --dtype bfloat16 $(WITH_PEER)
	$(PYTHON) benchmarks/transformer_step.py --schedulers --lengths 6144
	$(PYTHON) benchmarks/generate.py --num_inference_steps 25 50 --tile_latent_lengths 16 100 512
	$(PYTHON) benchmarks/generate.py --num_inference_steps 50 25 --dtype bfloat16 --peer
	$(PYTHON) benchmarks/memory.py --size paper --cases ours:30 stream:30 tiled:30
	$(PYTHON) benchmarks/memory.py --size embedded --cases ours:285 stream:285 tiled:285 encode:1200
	$(PYTHON) benchmarks/steps.py --window 1024 --num_prompts 2 --plot docs/images/steps.png
	$(PYTHON) benchmarks/decode.py --size paper --seconds 285 --peers tiled --repeats 1

# Everything that needs a GPU, in ten minutes: the tests, then times, memory and errors at the paper's size.
gpu-check: $(INSTALLED)  ## test and measure on a GPU (ten minutes)
	$(PYTHON) -m pip install --quiet torchao -c constraints.txt
	$(PYTHON) -m pytest tests/test_cuda.py tests/models/acceleration/test_fused_snake.py
	$(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK) --compile --report gpu_check.md --profile gpu_check_trace.json

# All trainings for a few steps on a little composed music, then music from the result: shows that the path works.
# Needs a soundfont: `apt-get install timgm6mb-soundfont`, or SOUNDFONT=FILE.sf2.
train-tiny: $(INSTALLED)  ## run every training for a few steps (minutes on a CPU)
	$(PYTHON) training/compose_music.py --first_seed 12 --num_pieces 8 --min_duration_in_s 20 --max_duration_in_s 60 \
		$(if $(SOUNDFONT),--soundfont $(SOUNDFONT)) --output_dir $(RUN)/corpus
	$(TRAIN) training/train_linear_start.py --config training/configs/autoencoder_tiny_linear.yaml $(FEW_STEPS) \
		--num_validation_crops 4 --manifest $(RUN)/corpus/manifest.jsonl --output_dir $(RUN)/linear_start
	$(TRAIN) training/train_autoencoder.py --config training/configs/autoencoder_tiny.yaml $(FEW_STEPS) \
		--num_validation_crops 4 --manifest $(RUN)/corpus/manifest.jsonl --output_dir $(RUN)/autoencoder \
		--init_from $(RUN)/linear_start/autoencoder
	$(TRAIN) training/train_clap.py --config training/configs/clap_tiny.yaml $(FEW_STEPS) \
		--batch_size 4 --manifest $(RUN)/corpus/manifest.jsonl --output_dir $(RUN)/clap
	$(TRAIN) training/encode_latents.py --manifest $(RUN)/corpus/manifest.jsonl \
		--autoencoder $(RUN)/autoencoder/autoencoder --output_dir $(RUN)/latents
	$(TRAIN) training/train_dit.py --config training/configs/dit_tiny.yaml $(FEW_STEPS) \
		--latents $(RUN)/latents --clap $(RUN)/clap/clap --output_dir $(RUN)/dit_12s
	$(TRAIN) training/train_dit.py --config training/configs/dit_tiny.yaml $(FEW_STEPS) \
		--model.sample_size 6144 --batch_size 1 \
		--latents $(RUN)/latents --clap $(RUN)/clap/clap --init_from $(RUN)/dit_12s/dit --output_dir $(RUN)/dit_285s
	$(PYTHON) training/make_checkpoint.py --autoencoder $(RUN)/autoencoder/autoencoder --clap $(RUN)/clap/clap \
		--dit $(RUN)/dit_285s/dit --window_in_s "[11.88, 285.3]" --mask_text_padding true \
		--output_dir $(RUN)/checkpoint
	$(VENV)/bin/stable-longform generate "Genre: Rock" --checkpoint $(RUN)/checkpoint --duration 10 --steps 5 \
		--seed 1 --overwrite -o $(RUN)/music.wav

# From nothing to a checkpoint like the embedded one, in MINUTES; run it again to go on after a stop. Needs a soundfont.
train-embedded: $(INSTALLED)  ## train a checkpoint like the included one in MINUTES
	$(TRAIN) training/train_embedded.py --minutes $(MINUTES) --device $(DEVICE) --output_dir $(OUT)

# A student of the included checkpoint, then a table of 8, 4, 2 and 1 steps beside the teacher's 50 with guidance.
distill-embedded: $(INSTALLED)  ## distil the included checkpoint to 8 steps, and measure the result
	$(TRAIN) training/distill_dit.py --config training/configs/distill_tiny.yaml --window_in_s $(DISTILL_WINDOW) \
		--checkpoint src/stable_longform/checkpoints/tiny --prompts training/configs/distill_tiny_prompts.txt \
		--output_dir $(DISTILLED) $(DISTILL)
	$(PYTHON) benchmarks/few_steps.py --window $(DISTILL_WINDOW) --duration $(DISTILL_PIECE) --plot $(DISTILLED)/few_steps.png \
		$(if $(findstring --rank 0,$(DISTILL)),--student $(DISTILLED)/checkpoint,--lora $(DISTILLED)/lora)

$(INSTALLED): setup.py constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet torch -c constraints.txt
	$(PYTHON) -m pip install --quiet -e ".[train,dev]" -c constraints.txt
	touch $@
