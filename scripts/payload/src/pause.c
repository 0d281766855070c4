/* pause: process 1 of a pod. It holds the pod's namespaces open, reaps what is
 * re-parented to it when the pid namespace is shared, and ends on TERM or INT.
 *
 * Signals are blocked and then waited for: the kernel drops a signal that pid 1
 * neither handles nor blocks, and a handler would need a restorer and a stack.
 */
#include "sys.h"

enum { SIG_BLOCK = 0, SIGINT = 2, SIGTERM = 15, SIGCHLD = 17, WNOHANG = 1 };

static void reap(void)
{
	while (sys4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
		;
}

void entry(long *stack)
{
	const char **argv = (const char **)(stack + 1);
	/* The kernel's sigset is 64 bits everywhere; unsigned long long keeps arm's
	 * two words in the right order. */
	unsigned long long set = 1ULL << (SIGINT - 1) | 1ULL << (SIGTERM - 1) | 1ULL << (SIGCHLD - 1);

	if (stack[0] > 1 && argv[1][0] == '-' && argv[1][1] == 'v') {
		print(1, "pause " PAUSE_VERSION " (limpet)\n");
		exit_now(0);
	}
	if (sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof set) < 0)
		exit_now(1);
	for (;;) {
		reap(); /* also what ended before the signals were blocked */
		long sig = sys4(SYS_rt_sigtimedwait, (long)&set, 0, 0, sizeof set);
		if (sig == SIGTERM || sig == SIGINT)
			exit_now(0);
		if (sig < 0 && sig != -EINTR)
			exit_now(2);
	}
}
