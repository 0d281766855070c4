/* System calls and process entry for programs without a C library.
 *
 * Both helpers (nft.c, pause.c) run where nothing else exists: an empty root,
 * an empty PATH, pid 1. Freestanding, each is a few kilobytes and starts in the
 * time of its execve. Numbers are from the kernel's uapi headers; every call
 * used here exists since Linux 2.6.16 on all three architectures.
 */
#ifndef LIMPET_SYS_H
#define LIMPET_SYS_H

#if defined(__x86_64__)

enum {
	SYS_write = 1, SYS_rt_sigprocmask = 14, SYS_execve = 59, SYS_wait4 = 61,
	SYS_rt_sigtimedwait = 128, SYS_exit_group = 231, SYS_readlinkat = 267,
};

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall entry\n");

static long sys4(long n, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(ret)
		: "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__aarch64__)

enum {
	SYS_write = 64, SYS_readlinkat = 78, SYS_exit_group = 94, SYS_rt_sigprocmask = 135,
	SYS_rt_sigtimedwait = 137, SYS_execve = 221, SYS_wait4 = 260,
};

__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tb entry\n");

static long sys4(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

#elif defined(__arm__) && !defined(__thumb__) /* compiled with -marm: r7 is a plain register there */

enum {
	SYS_write = 4, SYS_execve = 11, SYS_wait4 = 114, SYS_rt_sigprocmask = 175,
	SYS_rt_sigtimedwait = 177, SYS_exit_group = 248, SYS_readlinkat = 332,
};

__asm__(".globl _start\n_start:\n\tmov r11, #0\n\tmov lr, #0\n\tmov r0, sp\n\tb entry\n");

static long sys4(long n, long a, long b, long c, long d)
{
	register long r7 __asm__("r7") = n;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	__asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
}

#else
#error "add this architecture's system call numbers and entry"
#endif

#define EINTR 4
#define AT_FDCWD (-100)

/* entry gets the initial stack: argc, argv[], NULL, envp[], NULL, auxv[]. */
void entry(long *stack) __attribute__((noreturn, used));

static void exit_now(int code) __attribute__((noreturn));
static void exit_now(int code)
{
	for (;;)
		sys4(SYS_exit_group, code, 0, 0, 0);
}

static unsigned long length(const char *s)
{
	unsigned long n = 0;
	while (s[n])
		n++;
	return n;
}

static void print(int fd, const char *s)
{
	sys4(SYS_write, fd, (long)s, (long)length(s), 0);
}

#endif
