//go:build ignore

// overlay writes files of the Go runtime in which chance is seeded, and an overlay
// for go build that names them. Usage: go run overlay.go FOLDER
//
// Within a synctest bubble the runtime then draws its random numbers (order of maps,
// choice of select, order of timers of one moment) from a seed, hashes alike in every
// process, and takes neither a processor nor a mutex away from a goroutine because of the
// real clock; who waits for a mutex counts as waiting, so that virtual time goes on while
// somebody holds one across a call; and a context ends its children in the order in which
// they came. It changes no file of the Go installation.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

type change struct{ file, old, new string }

var changes = []change{
	{"rand.go", "//go:nosplit\n//go:linkname rand\nfunc rand() uint64 {\n", `// simSeed is the state of the seeded generator; 0: off.
//
//go:linkname simSeed
var simSeed uint64

// simBase is what simSeed began as.
//
//go:linkname simBase
var simBase uint64

//go:nosplit
func simRand() uint64 {
	simSeed += 0x9e3779b97f4a7c15
	x := simSeed
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

//go:nosplit
//go:linkname rand
func rand() uint64 {
	if simSeed != 0 && getg().bubble != nil {
		return simRand()
	}
`},
	{"rand.go", "func cheaprand() uint32 {\n", "func cheaprand() uint32 {\n\tif simSeed != 0 && getg().bubble != nil {\n\t\treturn uint32(simRand())\n\t}\n"},
	// The chance of maps, of select and of timers depends on the virtual time alone: a cache
	// that is filled once in a process would otherwise shift all that is drawn after it.
	{"rand.go", "//go:linkname maps_rand internal/runtime/maps.rand\nfunc maps_rand() uint64 {\n", `// simMoment is a number of the bubble's moment.
//
//go:nosplit
func simMoment(b *synctestBubble) uint64 {
	x := simBase ^ uint64(b.now)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

//go:linkname maps_rand internal/runtime/maps.rand
func maps_rand() uint64 {
	if simSeed != 0 {
		if b := getg().bubble; b != nil {
			return simMoment(b)
		}
	}
`},
	{"select.go", "		j := cheaprandn(uint32(norder + 1))\n", `		var j uint32
		if b := getg().bubble; simSeed != 0 && b != nil {
			j = uint32((simMoment(b) >> (norder % 32)) % uint64(norder+1))
		} else {
			j = cheaprandn(uint32(norder + 1))
		}
`},
	{"time.go", "			t.rand = cheaprand()\n", `			if simSeed != 0 {
				t.rand = uint32(simMoment(getg().bubble))
			} else {
				t.rand = cheaprand()
			}
`},
	{"sema.go", "	s.ticket = cheaprand() | 1\n", `	if b := getg().bubble; simSeed != 0 && b != nil {
		s.ticket = uint32(simMoment(b)) | 1
	} else {
		s.ticket = cheaprand() | 1
	}
`},
	{"../internal/sync/hashtriemap.go", "uintptr(runtime_rand())", "0x9e3779b9"},
	// A mutex that was waited for longer than 1 ms is handed over in another way.
	{"sema.go", "func internal_sync_nanotime() int64 {\n", `func internal_sync_nanotime() int64 {
	if simSeed != 0 {
		if b := getg().bubble; b != nil {
			return b.now
		}
	}
`},
	// Every 61st time, counted since the process began, the global queue comes first.
	{"proc.go", "	if pp.schedtick%61 == 0 && ", "	if simSeed == 0 && pp.schedtick%61 == 0 && "},
	{"proc.go", "func retake(now int64) uint32 {\n", "func retake(now int64) uint32 {\n\tif simSeed != 0 {\n\t\treturn 0\n\t}\n"},
	{"runtime2.go", "	waitReasonSyncCondWait:          true,\n", `	waitReasonSyncCondWait:          true,
	waitReasonSyncMutexLock:         true,
	waitReasonSyncRWMutexRLock:      true,
	waitReasonSyncRWMutexLock:       true,
`},
	{"alg.go", "= bootstrapRand()", "= 0x9e3779b97f4a7c15 * uint64(i+1)"},
	// The order of a map of pointers depends on where they lie: children are ended in the
	// order in which they came.
	{"../context/context.go", "	children map[canceler]struct{}", "	children map[canceler]uint64"},
	{"../context/context.go", "make(map[canceler]struct{})", "make(map[canceler]uint64)"},
	{"../context/context.go", "p.children[child] = struct{}{}", "p.children[child] = simChildren.Add(1)"},
	{"../context/context.go", "	for child := range c.children {\n", "	for _, child := range simOrder(c.children) {\n"},
	{"../context/context.go", "// removeChild removes", `// simChildren counts the children of all contexts.
var simChildren atomic.Uint64

func simOrder(children map[canceler]uint64) []canceler {
	list := make([]canceler, 0, len(children))
	for child := range children {
		i := len(list)
		list = append(list, child)
		for ; i > 0 && children[list[i-1]] > children[child]; i-- {
			list[i] = list[i-1]
		}
		list[i] = child
	}
	return list
}

// removeChild removes`},
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run overlay.go FOLDER")
	}
	folder, err := filepath.Abs(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		log.Fatalf("go env GOROOT: %v", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		log.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "runtime")
	replace := map[string]string{}
	for _, c := range changes {
		from, to := filepath.Join(source, c.file), filepath.Join(folder, filepath.Base(c.file))
		read := from
		if replace[from] != "" {
			read = to
		}
		text, err := os.ReadFile(read)
		if err != nil {
			log.Fatal(err)
		}
		if n := strings.Count(string(text), c.old); n == 0 {
			log.Fatalf("overlay: %s of this Go has no %q; simulation/overlay.go has to follow it", from, c.old)
		}
		if err := os.WriteFile(to, []byte(strings.ReplaceAll(string(text), c.old, c.new)), 0o644); err != nil {
			log.Fatal(err)
		}
		replace[from] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println(path)
}
