# make demo teaches a tiny Stable Diffusion one gesture; make test runs the tests. Both install what they need
# into .venv first.

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python

# The demo: 10 to 25 minutes on two CPU cores.
GESTURE = call
BASE_MODEL = utils/synthetic/tiny-stable-diffusion
NUM_TRAIN = 400
NUM_TEST = 200
RESOLUTION = 128
LAMBDA = 0.7
MU = 0.7
STEPS = 20
SEED = 0
TRAIN_FLAGS = --batch_size 32 --finetune_steps 120 --finetune_lr 8e-4 --checkpointing_steps 100 --num_validation_images 8

DATA = data/$(GESTURE)
OUTPUT = outputs/$(GESTURE)
COMPARED = --real_images $(DATA)/test/images --fake_images $(DATA)/train/images $(OUTPUT)/base_images \
  $(OUTPUT)/images --names real base tuned --num_images $(NUM_TEST)
PYTEST = $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder
RESULTS = --cache_dir $(OUTPUT)/cache --output $(OUTPUT)/results.jsonl

.PHONY: help demo test thorough lint clean

help:
	@echo "make demo      render hands, teach '$(GESTURE)' to a tiny Stable Diffusion, compare before and after"
	@echo "make test      run the tests"
	@echo "make thorough  run the longest tests, which make test leaves out: kills, full disks, a whole training"
	@echo "make lint      check the code with ruff"
	@echo "make clean     delete what the demo made: $(DATA) and $(OUTPUT)"
	@echo "Each installs what it needs into $(VENV) first, with PYTHON=$(PYTHON) (Python 3.10 to 3.14)."

demo: $(VENV)/installed
	@echo "# 1. Render images of the gesture, with captions"
	$(PY) -m utils.synthetic.render --gesture $(GESTURE) --num_train $(NUM_TRAIN) --num_test $(NUM_TEST) \
	  --resolution $(RESOLUTION) --seed $(SEED)
	@echo "# 2. Put the gesture's phrase into the captions"
	$(PY) enrich_captions.py --gesture $(GESTURE) --captioner synthetic --backend rules
	@echo "# 3. Train: gesture feature, embeddings, U-Net"
	$(PY) train.py --gesture $(GESTURE) --Lambda $(LAMBDA) --captioner synthetic \
	  --pretrained_model_name_or_path $(BASE_MODEL) --resolution $(RESOLUTION) $(TRAIN_FLAGS) --seed $(SEED)
	@echo "# 4. Generate the test prompts with the base model and with the tuned one"
	$(PY) image_generation.py --image_filenames_file $(DATA)/test/synthetic_filenames.txt \
	  --prompts_file $(DATA)/test/synthetic_enriched.txt --ckpt $(OUTPUT)/model \
	  --feature_npy_path $(OUTPUT)/gesture_feature.npy --img_save_path $(OUTPUT)/base_images --mu $(MU) \
	  --num_inference_steps $(STEPS) --seed $(SEED) --base
	$(PY) image_generation.py --image_filenames_file $(DATA)/test/synthetic_filenames.txt \
	  --prompts_file $(DATA)/test/synthetic_enriched.txt --ckpt $(OUTPUT)/model \
	  --feature_npy_path $(OUTPUT)/gesture_feature.npy --img_save_path $(OUTPUT)/images --mu $(MU) \
	  --num_inference_steps $(STEPS) --seed $(SEED)
	@echo "# 5. Measure the hands, then the distances to the test images (of real: that of other real ones)"
	$(PY) hand_confidence.py --image_folder $(DATA)/test/images $(OUTPUT)/base_images $(OUTPUT)/images \
	  --names real base tuned --gesture $(GESTURE) $(RESULTS)
	$(PY) cal_fid.py $(COMPARED) --features synthetic $(RESULTS)
	$(PY) cal_kid.py $(COMPARED) --features synthetic $(RESULTS)
	$(PY) cal_fid.py $(COMPARED) --features landmarks $(RESULTS)
	$(PY) cal_kid.py $(COMPARED) --features landmarks $(RESULTS)
	$(PY) -m utils.results_table $(OUTPUT)/results.jsonl
	@echo "Before and after: $(OUTPUT)/samples/before_after.png"

test: $(VENV)/installed-dev
	$(PYTEST)

thorough: $(VENV)/installed-dev
	$(PYTEST) -m thorough

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .

clean:
	rm -rf $(DATA) $(OUTPUT)

# Set-up. `installed` appears when everything is in place, so that an interrupted installation is done again,
# from an empty folder.
$(VENV)/installed: requirements.txt
	@if [ -e $(VENV)/.unfinished ]; then rm -rf $(VENV); fi
	@$(CREATE_VENV)
	@touch $(VENV)/.unfinished
	$(PY) -m pip install -r requirements.txt
	@mv $(VENV)/.unfinished $@
	$(PY) -m utils.hands.model_files

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PY) -m pip install -r requirements-dev.txt
	@touch $@

# An environment that is already there and has pip is kept; otherwise $(PYTHON) makes one.
define CREATE_VENV
set -e; python="$(PYTHON)"; if $(PY) -m pip --version >/dev/null 2>&1; then python=$(PY); fi; \
command -v $$python >/dev/null || { echo "make: $$python not found. $(REMEDY)" >&2; exit 1; }; \
$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || \
  { echo "make: $$python is $$($$python --version 2>&1), 3.10 to 3.14 is needed. $(REMEDY)" >&2; \
    exit 1; }; \
if [ $$python = $(PY) ]; then exit 0; fi; \
$$python -c 'import ensurepip, venv' 2>/dev/null || \
  { echo "make: $$python has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }; \
echo "$$python -m venv $(VENV)"; $$python -m venv $(VENV)
endef
REMEDY = Name another one: make PYTHON=python3.13
