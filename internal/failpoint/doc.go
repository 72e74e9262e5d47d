// Package failpoint names the steps of the program at which a test may kill or
// stop it. In a usual build a step costs nothing: Hit is empty, and inlined.
//
// Built with the tag failpoints, a step looks for the file that [FileEnv] names.
// When its text is "STEP kill" or "STEP stop", the process takes the file away
// (it is renamed to FILE.hit) and sends itself SIGKILL or SIGSTOP. A file is taken
// by one process, once: two that reach the step together cannot both be hit.
// "STEP kill 3" lets the step pass twice before.
//
// No program that is shipped has the tag.
package failpoint

// FileEnv is the environment variable that names the file of orders.
const FileEnv = "FAILPOINT_FILE"
