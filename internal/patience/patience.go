// Package patience is how long tests wait: one variable makes all of them wait longer
// on a machine that is slow or busy. It is for deadlines alone, which a test that passes
// does not reach; nothing is measured by it. Nothing the product links imports it.
package patience

import (
	"os"
	"strconv"
	"time"
)

// Env names the environment variable: how many times longer than on an idle machine of
// two cores tests wait. A number of at least 1; 1 where it is not set.
const Env = "CREDITMIRROR_TEST_PATIENCE"

// Of is the deadline for what takes up to d on an idle machine.
func Of(d time.Duration) time.Duration { return of(os.Getenv(Env), d) }

func of(times string, d time.Duration) time.Duration {
	f, err := strconv.ParseFloat(times, 64)
	if err != nil || f < 1 || f > 1000 {
		return d
	}
	return time.Duration(f * float64(d))
}
