package e2e

import "syscall"

// childAttr makes the kernel end the child when the thread that started it ends,
// so that a test binary that panics or times out leaves nothing behind.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
