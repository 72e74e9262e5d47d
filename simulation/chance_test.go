//go:build simruntime

package simulation

import _ "unsafe" // for go:linkname

// simSeed is the runtime's, as overlay.go makes it.
//
//go:linkname simSeed runtime.simSeed
var simSeed uint64

// simBase is what it begins as.
//
//go:linkname simBase runtime.simBase
var simBase uint64

// seedRuntime makes the runtime's own chance follow the seed.
func seedRuntime(seed uint64) bool {
	simSeed = mix(seed) | 1
	simBase = simSeed
	return true
}
