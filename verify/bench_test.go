//go:build unix

package verify_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/verify"
)

// benchRows is how many balance transactions the benchmark proves; there is a
// tenth as many credit transactions beside them. VERIFY_BENCH_ROWS sets it.
func benchRows() int {
	if n, err := strconv.Atoi(os.Getenv("VERIFY_BENCH_ROWS")); err == nil {
		return n
	}
	return 200_000
}

// BenchmarkVerify proves a mirror and reports the speed and the most memory that
// this process (not the database's server) held.
func BenchmarkVerify(b *testing.B) {
	for _, driver := range drivers {
		b.Run(driver.name, func(b *testing.B) {
			d := driver.open(b)
			rows := benchRows()
			start := time.Now()
			mirrortest.FillTrue(func(statement string) { d.mustExec(b, statement) }, driver.name == "postgres", rows)
			b.Logf("filled in %s", time.Since(start).Round(time.Second))
			runtime.GC()
			_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) // the peak begins anew
			var total verify.Result
			before, served := processorTime(b), childrenTime()
			for b.Loop() {
				result, err := verify.Run(b.Context(), d.store, verify.Options{}, func(f mirror.Finding) error {
					return fmt.Errorf("found %+v", f)
				})
				if err != nil {
					b.Fatal(err)
				}
				total.Add(result)
			}
			transactions := float64(total.BalanceTransactions + total.CreditTransactions)
			b.ReportMetric(transactions/b.Elapsed().Seconds(), "transactions/s")
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/transactions, "own-cpu-µs/transaction")
			if driver.name == "postgres" {
				b.ReportMetric(float64((childrenTime()-served).Microseconds())/transactions, "server-cpu-µs/transaction")
			}
			b.ReportMetric(peakMiB(), "peak-MiB")
		})
	}
}

// processorTime is what this process has used of the processors: on a busy
// machine it says more than the clock.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// childrenTime is what the processes below this one have used of the processors:
// the database's server. Zero where there is no /proc.
func childrenTime() (sum time.Duration) {
	const tick = 10 * time.Millisecond
	type process struct {
		parent int
		used   time.Duration
	}
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range dirs {
		text, _ := os.ReadFile(path)
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the state on
		if len(fields) < 13 {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Fields(string(text))[0])
		p := process{}
		p.parent, _ = strconv.Atoi(fields[1])
		for _, ticks := range fields[11:13] { // in user and in system mode
			n, _ := strconv.Atoi(ticks)
			p.used += time.Duration(n) * tick
		}
		all[pid] = p
	}
	for _, p := range all {
		for at := p; at.parent != 0; at = all[at.parent] {
			if at.parent == os.Getpid() {
				sum += p.used
				break
			}
		}
	}
	return sum
}

// peakMiB is the most memory that the process held since the mark was reset.
func peakMiB() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}
