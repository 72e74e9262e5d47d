// Package failpoint names the steps of the program at which a test may kill or
// stop it. In a normal build a step costs nothing: Hit is empty, and inlined.
//
// Built with the tag failpoints, a step looks for the file that [FileEnv] names.
// If its text is "STEP kill" or "STEP stop", the process renames the file
// to FILE.hit and sends itself SIGKILL or SIGSTOP. Only one process can rename the
// file: of two that reach the step together, one is hit.
// "STEP kill 3" lets the step pass twice before.
//
// No released program has the tag.
package failpoint

// FileEnv is the environment variable that names the file of orders.
const FileEnv = "FAILPOINT_FILE"
