//go:build !simruntime

package simulation

// seedRuntime does nothing where the runtime is Go's own: see overlay.go.
func seedRuntime(uint64) bool { return false }
