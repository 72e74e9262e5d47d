# make help    lists the targets
GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
# RACE=1 runs the tests under the race detector, as CI does; they take four times as long.
# SQLite's C code, translated to Go, keeps its own locks and is seven times slower under
# the detector; the driver over it and all else is watched.
WATCHED := $(if $(filter 1,$(RACE)),-race -gcflags='modernc.org/sqlite/lib=-race=false' -gcflags='modernc.org/libc=-race=false')
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: build
build: ## build bin/creditmirror, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X github.com/creditmirror/creditmirror/app.version=$(VERSION)' -o bin/creditmirror ./cmd/creditmirror

# How many times longer than an idle machine of two cores tests wait for what has to
# happen. It makes no test slower that passes.
PATIENCE ?= 3
export CREDITMIRROR_TEST_PATIENCE ?= $(PATIENCE)

# The tests' databases sync thousands of times. They are in memory where there is plenty,
# which halves the time; no test cuts the power, so that none depends on a disk.
MEMORY := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR==2 {print $$4}')" -gt 8000000 ] 2>/dev/null && echo TMPDIR=/dev/shm GOTMPDIR=$(or $(TMPDIR),/tmp))

.PHONY: test
test: ## all tests but those of whole processes; services that are not installed are skipped. RACE=1 for the race detector, PATIENCE=10 for a machine that is slow or busy
	$(MEMORY) $(GO) test $(WATCHED) -p 4 -shuffle=on -timeout 60m $$($(GO) list ./... | grep -v /e2e$$)

.PHONY: test-e2e
test-e2e: ## the tests of whole processes, about five minutes; prints each test as it begins and ends
	$(MEMORY) $(GO) test $(WATCHED) -v -shuffle=on -timeout 60m ./e2e

.PHONY: test-pooler
test-pooler: ## the whole suite of the mirror's database behind a PgBouncer in transaction mode
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_POOLER=1 $(GO) test -count=1 -timeout 30m -run 'PgBouncer' ./mirror/postgres

.PHONY: test-ops
test-ops: ## tests of rules, dashboards, manifests, image and compose file, against the program
	cd tools/opstest && $(GO) test -timeout 20m ./...

.PHONY: alerts
alerts: ## a real Prometheus over two mirrors, one of which is broken: see its alerts fire
	cd tools/opstest && $(GO) test -count=1 -v -run 'TestAlertsFireOnARealPrometheus' .

.PHONY: start-alerts
start-alerts: ## a real Prometheus over a first start, a stop and a kill: no alert; three minutes, wants a quiet machine
	cd tools/opstest && CREDITMIRROR_START=1 CREDITMIRROR_REQUIRE_SERVICES=1 $(GO) test -count=1 -v -run 'TestFirstStartAndRestartsAreSilent' .

.PHONY: rules
rules: ## k8s/monitoring/prometheusrule.yaml from rules.yaml
	cd tools/opstest && $(GO) test -run 'TestPrometheusRuleIsTheRules' . -update

.PHONY: lint
lint: ## formatting, vet, staticcheck, tidy modules
	@test -z "$$($(TOOL) gofumpt -l .)" || { $(TOOL) gofumpt -d .; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(GO) mod tidy -diff
	$(GO) mod verify
	cd tools/opstest && $(GO) vet ./...

.PHONY: gosec
gosec: ## insecure code that is not answered beside its line; two minutes of one core. Its version is in tools/gosec/go.mod
	cd tools/gosec && $(GO) build -o $(or $(TMPDIR),/tmp)/creditmirror-gosec .
	$(or $(TMPDIR),/tmp)/creditmirror-gosec

.PHONY: vulncheck
vulncheck: ## known vulnerabilities in code that is reached; fetches its data from vuln.go.dev
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

.PHONY: fmt
fmt: ## format the code
	$(TOOL) gofumpt -w .

.PHONY: bench
bench: ## all benchmarks, once; docs/benchmarks.md tells how they are compared
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

.PHONY: bench-history
bench-history: ## a customer of 1,000,000 transactions beside webhooks, on both databases: first copy, catch-up, whole read
	HISTORY_BENCH_ROWS=$(or $(HISTORY_BENCH_ROWS),1000000) $(GO) test -run '^$$' -bench BenchmarkLongHistory -benchtime 1x -timeout 60m ./mirror/sqlite ./mirror/postgres

.PHONY: bench-export
bench-export: ## the export's figures on both databases with ROWS (1,000,000) transactions: speed against the driver, memory, increments, size against DuckDB; 5,000,000 take half an hour and 15 GB of disk
	EXPORT_BENCH_ROWS=$(or $(ROWS),1000000) CREDITMIRROR_REQUIRE_SERVICES=1 $(GO) test -run '^$$' -bench BenchmarkExport -benchtime 5x -timeout 120m ./export

.PHONY: bench-api
bench-api: ## the API on PostgreSQL with 1,000,000 customers and 20,000,000 transactions; takes 10 minutes, 10 GB of memory and 30 GB of disk
	CREDITMIRROR_BENCH_API=1 CREDITMIRROR_REQUIRE_SERVICES=1 $(GO) test -count=1 -v -timeout 60m -run 'TestServingUnderLoad|TestWriteThroughAdds' ./mirror/postgres ./app

.PHONY: bench-console
bench-console: ## the console's pages on both databases with 1,000,000 customers and 20,000,000 transactions; CUSTOMERS, DATABASE=SQLite|PostgreSQL. Half an hour, 8 GB of memory, 40 GB of disk
	CREDITMIRROR_BENCH_CONSOLE=$(or $(CUSTOMERS),1000000) CREDITMIRROR_REQUIRE_SERVICES=1 $(GO) test -count=1 -v -timeout 90m -run 'TestPageTimes/$(DATABASE)' ./console

.PHONY: demo
demo: ## the whole system against the simulator for 20 seconds
	$(GO) run ./cmd/creditmirror demo --for 20s

.PHONY: sdk
sdk: ## fetch what tests drive or are driven by: stripe-node, the newest stripe-go, DuckDB, axe-core
	cd stripesim/testdata/sdk/node && npm ci --silent --no-audit --no-fund
	cd stripesim/testdata/sdk/go && $(GO) mod download
	cd export/testdata/duckdb && npm ci --silent --no-audit --no-fund
	cd console/testdata/axe && npm ci --silent --no-audit --no-fund

# Code that starts goroutines never runs twice alike, so that the minute go takes to make an
# input smaller would be all of the time: 100 runs are tried.
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s); TARGET=text picks some
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' . | grep -F '$(TARGET)' | sort | while IFS=: read -r file f; do \
	  pkg=$$(dirname $$file); f=$${f#func }; echo "$$pkg $$f"; \
	  $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),20s) -fuzzminimizetime 100x $$pkg || exit 1; \
	done

# Each of these is built with little beside it; the build that fuzzing wants takes minutes for
# SQLite. make test runs the seeds and the corpora of all targets.
.PHONY: fuzz-quick
fuzz-quick: ## the targets that are built fast, 2 s each
	@for target in ./doors:FuzzCaller ./money:FuzzParse ./stripesim:FuzzState ./stripesim:FuzzControl ./stripesim:FuzzScenario; do \
	  $(GO) test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(or $(FUZZTIME),2s) -fuzzminimizetime 100x $${target%:*} || exit 1; \
	done

.PHONY: figures
figures: ## the figures of docs/reliability.md, in about a quarter of an hour; wants a quiet machine
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_FIGURES=1 $(GO) test -count=1 -v -timeout 30m -run TestFigure ./app ./e2e
	$(MAKE) figures-verify

.PHONY: figures-verify
figures-verify: ## speed and memory of verify on both databases; VERIFY_BENCH_ROWS says of how many transactions
	VERIFY_BENCH_ROWS=$(or $(VERIFY_BENCH_ROWS),2000000) $(GO) test -run '^$$' -bench BenchmarkVerify -benchtime 2x -timeout 30m ./verify

.PHONY: model
model: ## the protocol checked exhaustively by spin, and each weakened one caught; docs/model.md. MODEL=full adds larger worlds
	model/check $(MODEL)

.PHONY: fault
fault: ## kill -9 and SIGSTOP at every named step, both databases. KILLS, STOPS: how often; STEPS: a pattern; RECORD: a file to resume from
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_FAULT=1 CREDITMIRROR_FAULT_KILLS=$(or $(KILLS),1) CREDITMIRROR_FAULT_STOPS=$(or $(STOPS),1) \
	CREDITMIRROR_FAULT_STEPS='$(STEPS)' CREDITMIRROR_FAULT_RECORD=$(RECORD) $(GO) test -count=1 -v -timeout 48h -run TestFault ./e2e

.PHONY: fault-quick
fault-quick: ## a selection of the steps, killed once each; about a minute
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_FAULT=quick $(GO) test -count=1 -v -timeout 10m -run TestFaultSteps ./e2e

.PHONY: attack
attack: ## floods on every listener of a real process; docs/security.md has the figures
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_ATTACK=1 $(GO) test -count=1 -v -timeout 15m -run TestAttacks ./e2e

.PHONY: guesses
guesses: ## 1,000,000 guesses of API keys over the network; GUESSES. Three minutes
	CREDITMIRROR_GUESSES=$(or $(GUESSES),1000000) $(GO) test -count=1 -v -timeout 60m -run TestGuessesOverTheNetwork ./e2e

.PHONY: soak
soak: ## serve on PostgreSQL and Redis under changes for SOAK (10m, 24h), with a fault every 30 s; levels must return
	CREDITMIRROR_REQUIRE_SERVICES=1 CREDITMIRROR_SOAK=$(or $(SOAK),10m) $(GO) test -count=1 -v -timeout 0 -run TestSoak ./e2e

.PHONY: cover-core
cover-core: ## statements of the core that no test of its own runs; docs/reliability.md argues what is left
	tools/cover-core $(GO)

.PHONY: bench-sim
bench-sim: ## the simulator's figures of docs/simulator.md: requests/s, memory at a million customers, deep pages
	CREDITMIRROR_BENCH=1 $(GO) test -count=1 -v -timeout 30m -run 'TestListRate|TestScale' ./stripesim

# The simulation is built with a Go runtime whose own chance follows the seed.
SIMULATION := $(or $(TMPDIR),/tmp)/creditmirror-simulation

.PHONY: simulation
simulation:
	@mkdir -p $(SIMULATION)
	@cd simulation && $(GO) run overlay.go $(SIMULATION) >/dev/null
	$(GO) test -c -overlay $(SIMULATION)/overlay.json -tags simruntime -o $(SIMULATION)/simulation.test ./simulation

.PHONY: simulate
simulate: simulation ## lives SEEDS (2,000) lives of whole processes in virtual time, JOBS at once; SEED=n replays one with its trace; TWICE=1 lives each twice
	cd simulation && $(if $(SEED),$(SIMULATION)/simulation.test -test.v -test.run '^TestReplay$$' -sim.seed=$(SEED) $(if $(KEEP),-sim.keep=$(KEEP)),\
	  jobs=$(or $(JOBS),$$(nproc)); seeds=$(or $(SEEDS),2000); running=; \
	  for i in $$(seq 0 $$((jobs - 1))); do \
	    $(SIMULATION)/simulation.test -test.run '^TestSeeds$$' -test.timeout 0 -sim.seeds=$$(((seeds + jobs - 1 - i) / jobs)) \
	      -sim.first=$$(($(or $(FIRST),1) + i)) -sim.step=$$jobs $(if $(TWICE),-sim.twice) & running="$$running $$!"; \
	  done; \
	  failed=0; for pid in $$running; do wait $$pid || failed=1; done; exit $$failed)

.PHONY: mutants
mutants: simulation ## plants each of the bugs of simulation/mutants_test.go and sees that something notices; MUTANT=text picks some
	cd simulation && CREDITMIRROR_MUTANTS=1 $(SIMULATION)/simulation.test -test.run '^TestMutants$$' -test.timeout 0 \
	  -sim.overlay=$(SIMULATION)/overlay.json -sim.mutant='$(MUTANT)'
