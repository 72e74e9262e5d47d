package pgtest

import "syscall"

// childAttr makes the kernel end the server when the thread that started it
// ends, so that a test binary that panics or times out leaves nothing behind.
func childAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT}
}
