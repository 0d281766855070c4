# Limpet. The two commands that matter: `make run` starts a real cluster on a
# node of its own, `make test` runs every test. Both install what they need.

ARCH    ?= $(shell go env GOARCH)
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.1.0-dev)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)
K8S     := $(shell sed -n 's/^\tk8s.io\/kubernetes \(v[^ ]*\).*/\1/p' go.mod)
KV      := $(K8S)+limpet.$(patsubst v%,%,$(VERSION))

export CGO_ENABLED = 0
# For everything alike: builds and tests then share one build cache.
export GOFLAGS = -trimpath -buildvcs=false
GOENV := GOOS=linux GOARCH=$(ARCH) $(if $(filter arm,$(ARCH)),GOARM=7)

base    := k8s.io/component-base/version
client  := k8s.io/client-go/pkg/version
cri     := github.com/containerd/containerd/v2/version
CRI     := $(shell sed -n 's/^\tgithub.com\/containerd\/containerd\/v2 \(v[^ ]*\).*/\1/p' go.mod)
own     := github.com/limpetio/limpet/internal/version
LDFLAGS := -s -w \
  -X $(own).Version=$(VERSION) -X $(own).Commit=$(COMMIT) -X $(own).KubernetesVersion=$(KV) \
  -X $(base).gitVersion=$(KV) -X $(base).gitMajor=1 -X $(base).gitMinor=$(word 2,$(subst ., ,$(K8S))) \
  -X $(base).gitCommit=$(COMMIT) -X $(base).gitTreeState=clean -X $(base).buildDate=$(DATE) \
  -X $(cri).Version=$(CRI) \
  -X $(client).gitVersion=$(KV) -X $(client).gitCommit=$(COMMIT) -X $(client).buildDate=$(DATE) \
  $(if $(PUBLIC_KEY),-X $(own).PublicKey=$(PUBLIC_KEY))

BIN := dist/limpet$(if $(filter-out $(shell go env GOHOSTARCH),$(ARCH)),-$(ARCH))

.PHONY: help deps payload build package image run stop test unit test-datastore e2e lint vet docs images clean conformance bench-start bench-idle bench-api bench-agent bench-datastore

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## install the Debian packages that build and tests need
	@scripts/deps $(if $(filter-out $(shell go env GOHOSTARCH),$(ARCH)),--cross)

payload: deps ## build the helper executables that are embedded
	@scripts/payload/build $(ARCH)

build: payload ## build dist/limpet (ARCH=arm64 or ARCH=arm cross-compiles to dist/limpet-ARCH)
	@echo "building $(BIN) $(VERSION), Kubernetes $(KV)"
	@$(GOENV) go build -ldflags '$(LDFLAGS)' -o $(BIN) .
	@scripts/size $(BIN)

package: deps ## build a signed release for all architectures in dist/release (ARCHS=amd64, SIGNING_KEY=FILE, IMAGES="FILE…")
	@scripts/package/build

image: deps ## build the container image in dist/image (ARCHS="amd64 arm64 arm", IMAGE_NAME=NAME)
	@scripts/image/build

images: deps ## build the test images
	@scripts/images/build

run: build images ## start a single-node cluster with a sample application, on a node in namespaces of its own
	@scripts/run up

stop: ## remove what `make run` started
	@scripts/run down

test: build images vet unit test-datastore e2e ## run every test

unit: payload ## run the unit tests
	go test $$(go list ./... | grep -v /e2e)
	cd scripts/payload && go test ./...

test-datastore: deps ## run Kubernetes' own storage tests against the datastore (2 minutes)
	@scripts/test-datastore

e2e: build images ## run the end-to-end tests against dist/limpet
	go test -count=1 -timeout 40m ./e2e/...

conformance: build images ## run Kubernetes' conformance suite on two nodes (FOCUS, SKIP, PROCS, DRY=1, KEEP=1)
	@scripts/conformance/build
	@scripts/conformance/run

vet: payload
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'gofmt these files:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...

lint: payload ## run golangci-lint
	@scripts/lint

docs: ## generate docs/flags.md from the table of flags
	go run ./scripts/gendocs

bench-start: build images ## measure the start, on an empty and on an existing data directory
	@scripts/bench/start

bench-idle: build images ## measure memory, CPU, writes and wake-ups of an idle server, and after load
	@scripts/bench/idle

bench-api: build images ## measure API operations and a Deployment of 30 pods
	@scripts/bench/api

bench-agent: build images ## measure an agent: join, start, idle memory and CPU, with and without DNS
	@scripts/bench/agent

bench-datastore: deps ## measure the datastore beside kine and etcd (9 minutes; BENCH_FLAGS=-quick: 2)
	@scripts/bench/datastore

clean: ## remove what was built
	rm -rf dist .cache
	rm -f internal/payload/payload_linux_*
