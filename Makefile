# `make music` and `make test` set everything up on first use.
VENV ?= .venv
PYTHON = $(VENV)/bin/python
INSTALLED = $(VENV)/installed
RUN ?= runs/train-tiny
STEPS ?= 10
# Keeps freed memory in the process: fresh pages are what a CPU training waits for most.
TRAIN = env MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(PYTHON)
FEW_STEPS = --max_steps $(STEPS) --save_every $(STEPS) --validate_every $(STEPS) --num_workers 0

.PHONY: music test test-slow lint format train-tiny

music: $(INSTALLED)
	$(VENV)/bin/stable-longform generate "Genre: Ambient, Electronic|Instruments: Synth|Moods: Slow" --steps 40 --guidance-scale 4 --seed 1 -o music.wav

test: $(INSTALLED)
	$(PYTHON) -m pytest -n 2

test-slow: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 -m slow

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(INSTALLED)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# All three trainings for a few steps on a few real tracks, then music from the result: shows that the path works.
train-tiny: $(INSTALLED)
	$(PYTHON) training/prepare_music.py --preset ci --output_dir $(RUN)/corpus
	$(TRAIN) training/train_autoencoder.py --config training/configs/autoencoder_tiny.yaml $(FEW_STEPS) \
		--num_validation_crops 4 --manifest $(RUN)/corpus/manifest.jsonl --output_dir $(RUN)/autoencoder
	$(TRAIN) training/train_clap.py --config training/configs/clap_tiny.yaml $(FEW_STEPS) \
		--batch_size 4 --manifest $(RUN)/corpus/manifest.jsonl --output_dir $(RUN)/clap
	$(TRAIN) training/normalize_latents.py --num_crops 4 --manifest $(RUN)/corpus/manifest.jsonl \
		--autoencoder $(RUN)/autoencoder/autoencoder --output_dir $(RUN)/autoencoder/normalized
	$(TRAIN) training/encode_latents.py --max_tracks 2 --manifest $(RUN)/corpus/manifest.jsonl \
		--autoencoder $(RUN)/autoencoder/normalized --output_dir $(RUN)/latents
	$(TRAIN) training/train_dit.py --config training/configs/dit_tiny_48s.yaml $(FEW_STEPS) \
		--latents $(RUN)/latents --clap $(RUN)/clap/clap --output_dir $(RUN)/dit_48s
	$(TRAIN) training/train_dit.py --config training/configs/dit_tiny_285s.yaml $(FEW_STEPS) \
		--latents $(RUN)/latents --clap $(RUN)/clap/clap --init_from $(RUN)/dit_48s/dit --output_dir $(RUN)/dit_285s
	$(PYTHON) training/make_checkpoint.py --autoencoder $(RUN)/autoencoder/normalized --clap $(RUN)/clap/clap \
		--dit $(RUN)/dit_285s/dit --output_dir $(RUN)/checkpoint
	$(VENV)/bin/stable-longform generate "Genre: Rock" --checkpoint $(RUN)/checkpoint --duration 10 --steps 5 \
		--seed 1 -o $(RUN)/music.wav

$(INSTALLED): setup.py constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet torch -c constraints.txt
	$(PYTHON) -m pip install --quiet -e ".[train,dev]" -c constraints.txt
	touch $@
