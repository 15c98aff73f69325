# Hotstage. `make help` lists what there is.
SHELL       := /bin/bash
export CGO_ENABLED := 0
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
# Debian's packages that the interop tests use as judges.
PACKAGES    := iproute2 nftables conntrack udhcpc dhcpcd-base isc-dhcp-client kea-admin kea-dhcp4-server ndisc6 \
               bind9-dnsutils knot-dnsutils curl unbound iputils-ping arping gcc libc6-dev qemu-system-x86 busybox-static \
               mariadb-server-core mariadb-client-core keepalived
# What the resolver is measured beside, and the tools that do it; not needed by tests.
PEERS       := dnsdist dnsperf keepalived knot-resolver nftables nsd pdns-recursor unbound
# Debian's cloud kernel, which has what the kernel at hand may lack; see testnet.KernelDir.
KERNEL      := /var/cache/hotstage/kernel
TOOL        := go tool -modfile=tools/go.mod

REPORT      ?= report

.PHONY: build rehearse check test packages bench-packages golden fuzz bpf bench bench-dhcp bench-dns bench-failover pictures help
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

# install puts Debian's packages of a list on the machine, without starting what they bring.
define install
	@command -v apt-get >/dev/null || { echo 'this needs Debian or a system with: $(1)'; exit 1; }
	@missing=; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; apt-get update -qq && \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; ours=1; fi; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; rc=$$?; \
	  [ -z "$$ours" ] || rm -f /usr/sbin/policy-rc.d; exit $$rc; fi
endef

packages: ## install what the tests judge with (Debian, as root)
	$(call install,$(PACKAGES))
	@if ! ls $(KERNEL)/boot/vmlinuz-*-cloud-amd64 >/dev/null 2>&1; then \
	  apt-get update -qq; image=$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/{print $$2; exit}'); \
	  echo "unpacking $$image into $(KERNEL)"; got=$$(mktemp -d) && chmod 755 $$got && (cd $$got && apt-get download -qq $$image >/dev/null) && \
	  mkdir -p $(KERNEL) && dpkg -x $$got/*.deb $(KERNEL); rc=$$?; rm -rf $$got; exit $$rc; fi

bench-packages: ## install what the resolver is measured beside (Debian, as root)
	$(call install,$(PEERS))

test: packages ## everything: installs what it needs, a skip is a failure
	$(MAKE) check
	HOTSTAGE_MUST=netns,interop,vm CGO_ENABLED=1 go test -race -count=1 -p 1 ./... # one after the other: many judge a whole machine

golden: ## rewrite the golden files; review the difference
	go test $$(go list -f '{{range .TestImports}}{{if eq . "github.com/hotstage/hotstage/internal/golden"}}{{$$.ImportPath}}{{end}}{{end}} {{range .XTestImports}}{{if eq . "github.com/hotstage/hotstage/internal/golden"}}{{$$.ImportPath}}{{end}}{{end}}' ./...) -update

fuzz: ## fuzz every target for T each (T=60s)
	@for pkg in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	  echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${T:-60s} $$pkg || exit 1; done; done

# What the XDP program is built with; see internal/role/resolver/xdp. Its object is committed.
BPF_PACKAGES := clang-14 llvm-14 libbpf-dev linux-libc-dev
bpf: ## rebuild the XDP program after a change of its source (Debian: apt-get install $(BPF_PACKAGES))
	cd internal/role/resolver/xdp && BPF2GO_CC=clang-14 BPF2GO_STRIP=llvm-strip-14 \
	  BPF2GO_CFLAGS='-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/$(shell uname -m)-linux-gnu' go generate . && \
	  sha256sum hot.c hot_bpfel.o >hot.sum

bench: ## run the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

PART        ?= disk,mysql,cost

bench-dhcp: build packages ## our DHCP server beside Kea's, in one run; on a quiet machine, 30 minutes; PART=disk, mysql or cost alone
	go run ./bench/dhcp -hotstage bin/hotstage -part $(PART)

# More flags for either: FLAGS='-part cached -trials 1 -json dns.json'.
bench-dns: build bench-packages ## our resolver beside unbound, dnsdist, pdns-recursor and kresd, in one run; on a quiet machine, 25 minutes
	go run ./bench/dns -hotstage bin/hotstage $(FLAGS)

bench-failover: build bench-packages ## a backend and the service address's holder die: ours beside dnsdist and keepalived; 12 minutes
	go run ./bench/failover -hotstage bin/hotstage $(FLAGS)

pictures: build ## draw doc's pictures anew: the diagram, and a rehearsal's report (needs chromium)
	bin/hotstage show examples/yapc2013.yaml diagram -o svg >doc/yapc2013.svg
	bin/hotstage rehearse examples/yapc2013.yaml --kill gw1@25s --report $(REPORT)
	@profile=$$(mktemp -d); chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars \
	  --user-data-dir=$$profile --window-size=1280,1336 --screenshot=$(CURDIR)/doc/rehearsal.png file://$(abspath $(REPORT))/report.html; \
	  rc=$$?; rm -rf $$profile; exit $$rc

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t16
