/* One function that makes a child: vfork, set up, execve.
 *
 * vfork and not fork: the page tables are not copied (0.6 ms against 1.2-2.1 ms), and the child
 * shares the parent's memory, so that the parent can read the reason of a failure after vfork.
 * Not posix_spawn: it cannot set a parent death signal, and that of glibc leaves signal 32 ignored.
 *
 * The child runs on the parent's stack while the parent is suspended.  It may only make system
 * calls: no malloc, no stdio, no return.  All signals are blocked meanwhile: a signal handler in
 * the child would change the parent's memory.  Call it with the interpreter lock held, from the
 * main thread: the kernel sends the parent death signal when the *thread* that made the child ends.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOEXEC_RANGE 4U /* CLOSE_RANGE_CLOEXEC, Linux 5.11 */

#define SIGNALS 64            /* the kernel's count; glibc hides 32 and 33 from sigaction */
#define SIGSET_BYTES (SIGNALS / 8)

/* Where it failed; the same numbers in kernel/spawn.py. */
enum step { STEP_FORK = 1, STEP_SETUP, STEP_CWD, STEP_FDS, STEP_NULL, STEP_EXEC };

struct plan {
	const char *executable;
	char *const *argv;
	char *const *envp;
	const char *cwd; /* NULL = the parent's */
	int *wanted;     /* the child's fd numbers, ascending, 0, 1 and 2 always among them */
	int *sources;    /* the parent's fds, in the same order; -1 = /dev/null; the child overwrites them */
	int count;
	int death_signal; /* 0 = none */
	int new_group;
	pid_t parent;
	/* Written by the child, read by the parent. */
	volatile int step;
	volatile int error;
};

static void reset_signals(void)
{
	/* Zeroes are SIG_DFL, no flags, an empty mask; larger than any kernel_sigaction. */
	static const char defaults[128];
	int number;

	for (number = 1; number <= SIGNALS; number++)
		syscall(SYS_rt_sigaction, number, defaults, NULL, SIGSET_BYTES);
}

/* Give the sources their wanted numbers; both sets of numbers may overlap. */
static enum step place_fds(struct plan *p)
{
	int last = p->wanted[p->count - 1];
	int null = -1;
	int i;

	for (i = 0; i < p->count; i++) {
		int source = p->sources[i];

		if (source < 0) {
			if (null < 0)
				null = open("/dev/null", O_RDWR | O_CLOEXEC);
			if (null < 0)
				return STEP_NULL;
			source = null;
		}
		/* A source among the wanted numbers would be overwritten before its turn. */
		if (source <= last)
			source = fcntl(source, F_DUPFD_CLOEXEC, last + 1);
		if (source < 0)
			return STEP_FDS;
		p->sources[i] = source;
	}
	for (i = 0; i < p->count; i++)
		if (dup2(p->sources[i], p->wanted[i]) < 0) /* also takes close-on-exec off */
			return STEP_FDS;
	return 0;
}

static int close_others(const struct plan *p)
{
	unsigned int first = 0;
	int i;

	for (i = 0; i <= p->count; i++) {
		unsigned int end = i < p->count ? (unsigned int)p->wanted[i] : UINT_MAX;

		if (end > first || i == p->count)
			if (syscall(SYS_close_range, first, i < p->count ? end - 1 : end,
				    CLOEXEC_RANGE) < 0)
				/* An older kernel: Python has opened all fds close-on-exec. */
				return errno == ENOSYS || errno == EINVAL ? 0 : -1;
		first = end + 1;
	}
	return 0;
}

static enum step set_up(struct plan *p)
{
	static const unsigned long nothing[SIGSET_BYTES / sizeof(unsigned long)];
	enum step step;

	reset_signals();
	if (p->death_signal) {
		if (prctl(PR_SET_PDEATHSIG, p->death_signal, 0, 0, 0) < 0)
			return STEP_SETUP;
		if (getppid() != p->parent) /* the parent died before the line above: no signal comes */
			_exit(127);
	}
	if (p->new_group && setpgid(0, 0) < 0)
		return STEP_SETUP;
	if (p->cwd && chdir(p->cwd) < 0)
		return STEP_CWD;
	step = place_fds(p);
	if (step)
		return step;
	if (close_others(p) < 0)
		return STEP_FDS;
	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, nothing, NULL, SIGSET_BYTES) < 0)
		return STEP_SETUP;
	execve(p->executable, p->argv, p->envp);
	return STEP_EXEC;
}

__attribute__((noinline, noreturn)) static void child(struct plan *p)
{
	p->step = set_up(p);
	p->error = errno;
	_exit(127);
}

__attribute__((noinline)) static pid_t vfork_child(struct plan *p)
{
	pid_t pid = vfork();

	if (pid == 0)
		child(p);
	return pid;
}

/* Returns the child's pid, or -errno and the step in *failed.  A child that failed is reaped here:
 * no caller knows its pid, and no signal handler has run since it was made. */
__attribute__((visibility("default"))) int pyrunc_spawn_1(
	const char *executable, char *const *argv, char *const *envp, const char *cwd,
	int *wanted, int *sources, int count, int death_signal, int new_group, int *failed)
{
	unsigned long all[SIGSET_BYTES / sizeof(unsigned long)];
	unsigned long before[SIGSET_BYTES / sizeof(unsigned long)];
	struct plan p = {
		.executable = executable, .argv = argv, .envp = envp, .cwd = cwd,
		.wanted = wanted, .sources = sources, .count = count,
		.death_signal = death_signal, .new_group = new_group, .parent = getpid(),
	};
	pid_t pid;
	int error;

	memset(all, 0xff, sizeof all);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, all, before, SIGSET_BYTES);
	pid = vfork_child(&p);
	error = errno;
	if (pid > 0 && p.step)
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, SIGSET_BYTES);
	if (pid < 0) {
		*failed = STEP_FORK;
		return -error;
	}
	if (p.step) {
		*failed = p.step;
		return -p.error;
	}
	return pid;
}
