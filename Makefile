# Hotstage. `make help` lists what there is.
SHELL       := /bin/bash
export CGO_ENABLED := 0
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
# Debian's packages that the interop tests use as judges.
PACKAGES    := iproute2 nftables conntrack udhcpc dhcpcd-base isc-dhcp-client kea-admin kea-dhcp4-server ndisc6 \
               bind9-dnsutils unbound iputils-ping arping gcc libc6-dev qemu-system-x86 busybox-static \
               mariadb-server-core mariadb-client-core keepalived
# Debian's cloud kernel, which has what the kernel at hand may lack; see testnet.KernelDir.
KERNEL      := /var/cache/hotstage/kernel
TOOL        := go tool -modfile=tools/go.mod

REPORT      ?= report

.PHONY: build rehearse check test packages golden fuzz bench bench-dhcp pictures help
build: ## build bin/hotstage, one static binary
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/hotstage ./cmd/hotstage

rehearse: build ## a conference of 3,000 people on this machine; needs no packages; writes report/report.html
	bin/hotstage rehearse examples/janog53.yaml --report $(REPORT)

check: ## the fast loop: format, vet, staticcheck, tidiness, dead code, unit tests with the race detector
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	go mod tidy -diff
	@dead=$$($(TOOL) deadcode -test ./...); [ -z "$$dead" ] || { echo "$$dead"; exit 1; }
	CGO_ENABLED=1 go test -race -short ./...

packages: ## install what the tests judge with (Debian, as root)
	@command -v apt-get >/dev/null || { echo 'make test needs Debian or a system with: $(PACKAGES)'; exit 1; }
	@missing=; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; apt-get update -qq && \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; ours=1; fi; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; rc=$$?; \
	  [ -z "$$ours" ] || rm -f /usr/sbin/policy-rc.d; exit $$rc; fi
	@if ! ls $(KERNEL)/boot/vmlinuz-*-cloud-amd64 >/dev/null 2>&1; then \
	  apt-get update -qq; image=$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/{print $$2; exit}'); \
	  echo "unpacking $$image into $(KERNEL)"; got=$$(mktemp -d) && chmod 755 $$got && (cd $$got && apt-get download -qq $$image >/dev/null) && \
	  mkdir -p $(KERNEL) && dpkg -x $$got/*.deb $(KERNEL); rc=$$?; rm -rf $$got; exit $$rc; fi

test: packages ## everything: installs what it needs, a skip is a failure
	$(MAKE) check
	HOTSTAGE_MUST=netns,interop,vm CGO_ENABLED=1 go test -race -count=1 -p 1 ./... # one after the other: many judge a whole machine

golden: ## rewrite the golden files; review the difference
	go test $$(go list -f '{{range .TestImports}}{{if eq . "github.com/hotstage/hotstage/internal/golden"}}{{$$.ImportPath}}{{end}}{{end}} {{range .XTestImports}}{{if eq . "github.com/hotstage/hotstage/internal/golden"}}{{$$.ImportPath}}{{end}}{{end}}' ./...) -update

fuzz: ## fuzz every target for T each (T=60s)
	@for pkg in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	  echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${T:-60s} $$pkg || exit 1; done; done

bench: ## run the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

PART        ?= disk,mysql,cost

bench-dhcp: build packages ## our DHCP server beside Kea's, in one run; on a quiet machine, 30 minutes; PART=disk, mysql or cost alone
	go run ./bench/dhcp -hotstage bin/hotstage -part $(PART)

pictures: build ## draw doc's pictures anew: the diagram, and a rehearsal's report (needs chromium)
	bin/hotstage show examples/yapc2013.yaml diagram -o svg >doc/yapc2013.svg
	bin/hotstage rehearse examples/yapc2013.yaml --kill gw1@25s --report $(REPORT)
	@profile=$$(mktemp -d); chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars \
	  --user-data-dir=$$profile --window-size=1280,1336 --screenshot=$(CURDIR)/doc/rehearsal.png file://$(abspath $(REPORT))/report.html; \
	  rc=$$?; rm -rf $$profile; exit $$rc

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t12
