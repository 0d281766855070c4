/* nft: starts ../libexec/nft, a dynamic executable of Debian's, with the loader
 * and the libraries shipped beside it, whatever the host has or lacks:
 *
 *     ../lib/ld.so --inhibit-cache --library-path ../lib --argv0 nft ../libexec/nft ARGS...
 *
 * The directory is found from /proc/self/exe, which sees through symbolic links,
 * or, where /proc is not mounted, from the path given to execve (AT_EXECFN).
 * The environment is passed on untouched.
 */
#include "sys.h"

#define PATH_MAX 4096
#define AT_EXECFN 31

struct paths {
	char loader[PATH_MAX + 32];
	char lib[PATH_MAX + 32];
	char program[PATH_MAX + 32];
};

static char *append(char *to, const char *s)
{
	while (*s)
		*to++ = *s++;
	*to = 0;
	return to;
}

/* parent cuts the last element off path in place; "nft" becomes ".", "/nft" "/". */
static void parent(char *path)
{
	unsigned long n = length(path);
	while (n > 0 && path[n - 1] != '/')
		n--;
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n == 0)
		path[n++] = '.';
	path[n] = 0;
}

static const char *exec_name(long *stack)
{
	long *p = stack + 1 + stack[0] + 1;
	while (*p) /* environment */
		p++;
	for (p++; p[0]; p += 2)
		if (p[0] == AT_EXECFN)
			return (const char *)p[1];
	return "";
}

/* bin_directory writes the directory of this executable to dir (PATH_MAX bytes). */
static int bin_directory(long *stack, char *dir)
{
	long n = sys4(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)dir, PATH_MAX - 1);
	if (n > 0) {
		dir[n] = 0;
	} else {
		const char *name = exec_name(stack);
		if (!*name || length(name) >= PATH_MAX)
			return 0;
		append(dir, name);
	}
	parent(dir);
	return 1;
}

void entry(long *stack)
{
	static struct paths at;
	static char dir[PATH_MAX + 2];
	long argc = stack[0];
	const char **argv = (const char **)(stack + 1);
	const char **envp = argv + argc + 1;

	if (!bin_directory(stack, dir)) {
		print(2, "nft: cannot tell where this program is: mount /proc or call it by its full path\n");
		exit_now(127);
	}
	append(append(at.loader, dir), "/../lib/ld.so");
	append(append(at.lib, dir), "/../lib");
	append(append(at.program, dir), "/../libexec/nft");

	const char *args[argc + 8];
	long n = 0;
	args[n++] = at.loader;
	args[n++] = "--inhibit-cache";
	args[n++] = "--library-path";
	args[n++] = at.lib;
	args[n++] = "--argv0";
	args[n++] = "nft";
	args[n++] = at.program;
	for (long i = 1; i < argc; i++)
		args[n++] = argv[i];
	args[n] = 0;

	sys4(SYS_execve, (long)at.loader, (long)args, (long)envp, 0);
	print(2, "nft: cannot execute ");
	print(2, at.loader);
	print(2, ": it is missing or damaged; restart limpet to repair its payload\n");
	exit_now(127);
}
