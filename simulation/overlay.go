//go:build ignore

// overlay writes files of the Go runtime in which chance is seeded, and an overlay
// for go build that names them. Usage: go run overlay.go FOLDER
//
// Within a synctest bubble the runtime then draws its random numbers (order of maps,
// choice of select, order of timers of one moment) from a seed, hashes alike in every
// process, and takes no processor away from a goroutine because of the real clock; and
// who waits for a mutex counts as waiting, so that virtual time goes on while somebody
// holds one across a call. It changes no file of the Go installation.
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
	{"proc.go", "func retake(now int64) uint32 {\n", "func retake(now int64) uint32 {\n\tif simSeed != 0 {\n\t\treturn 0\n\t}\n"},
	{"runtime2.go", "	waitReasonSyncCondWait:          true,\n", `	waitReasonSyncCondWait:          true,
	waitReasonSyncMutexLock:         true,
	waitReasonSyncRWMutexRLock:      true,
	waitReasonSyncRWMutexLock:       true,
`},
	{"alg.go", "= bootstrapRand()", "= 0x9e3779b97f4a7c15 * uint64(i+1)"},
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
		from, to := filepath.Join(source, c.file), filepath.Join(folder, c.file)
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
