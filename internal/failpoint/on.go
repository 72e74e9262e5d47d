//go:build failpoints && unix

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

var (
	file = os.Getenv(FileEnv)
	mu   sync.Mutex
	// passed counts the hits of the order that stands in the file.
	passed int
	order  string
)

// Hit kills or stops the process when a test has asked for it at this step.
func Hit(step string) {
	if file == "" {
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return // nothing is asked for
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 || fields[0] != step {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	if order != string(text) {
		order, passed = string(text), 0
	}
	passed++
	if len(fields) > 2 {
		if n, err := strconv.Atoi(fields[2]); err == nil && passed < n {
			return
		}
	}
	if os.Rename(file, file+".hit") != nil {
		return // another process took the order
	}
	order = ""
	signal := syscall.SIGKILL
	if fields[1] == "stop" {
		signal = syscall.SIGSTOP
	}
	_ = syscall.Kill(os.Getpid(), signal)
	if signal == syscall.SIGKILL {
		select {} // it is a moment until the signal is there
	}
}
