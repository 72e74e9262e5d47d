//go:build simruntime

package simulation

import _ "unsafe" // for go:linkname

// simSeed is the runtime's, as overlay.go makes it.
//
//go:linkname simSeed runtime.simSeed
var simSeed uint64

// seedRuntime makes the runtime's own chance follow the seed.
func seedRuntime(seed uint64) bool {
	simSeed = mix(seed) | 1
	return true
}
