/* The launcher: the shim's binary, if the installation had a compiler.  It sends `start` and `delete` to a
 * zygote.
 *
 * A new interpreter with its imports takes 60 to 80 ms (ADR 3).  So the first cold `start` leaves a Python
 * process behind, the zygote (parent.py), which has all modules imported and forks children.
 *
 * A fork cannot change some attributes of its process: ids, namespaces, capabilities, hard limits.  All
 * of these are in one text, the key.  The launcher asks only a zygote that has the same key.  The request
 * has the rest: arguments, environment, working directory, streams, soft limits, the cgroup ...
 *
 *     launcher               the zygote's waiting child
 *       key, state ...   ──►   compares, takes over the state
 *                        ◄──   "ok"
 *       "go", streams    ──►   does what the command line says
 *                        ◄──   exit status
 *
 * Before "go" nothing has happened.  If there is no zygote, if its key differs, or if it does not
 * answer in time, the launcher makes a cold start: it executes Python.  The streams are sent last,
 * because the daemon reads them until end of file: in the socket of a stopped process they would stay
 * open, and the daemon would wait.
 *
 * The conf file lies beside the program, with the program's name and `.conf`; the installation writes
 * it.  It has a line with the interpreter, a line with the Python entry point (cold_start.py), and a
 * line for each other file of the code.  If one of these files is replaced, as by a security update, the
 * next start makes a new zygote.
 */

#define _GNU_SOURCE
#include "description.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* The waiting child answers in 1 ms.  If other launchers came first, they are served first, and the zygote
 * forks for each of them.  While it does, this launcher waits, because a cold start takes as long. */
#define LOOK_MS 50
#define LOOKS 10
#define IDLE_LOOKS 2 /* without a fork of the zygote: then the waiting child is stuck */
#define ENTRY_ARGS 4 /* python -I entry new-zygote */

extern char **environ;

/* --- the request ------------------------------------------------------------------------------- */

static void words(struct text *body, char *const *from)
{
	struct text all = {0};

	for (; *from; from++)
		append(&all, *from, strlen(*from) + 1);
	section(body, all.data, all.used);
	body->failed |= all.failed;
	free(all.data);
}

/* Write a text to a new file in memory, and free the text.  Returns the file's fd, or -1 with errno. */
static int make_file(const char *name, unsigned int flags, struct text *body)
{
	int error = ENOMEM, fd = -1;
	size_t sent = 0;

	if (!body->failed) {
		fd = memfd_create(name, flags);
		error = errno;
	}
	while (fd >= 0 && sent < body->used) {
		ssize_t done = write(fd, body->data + sent, body->used - sent);

		if (done <= 0) {
			error = errno;
			close(fd);
			fd = -1;
		} else {
			sent += done;
		}
	}
	free(body->data);
	errno = error;
	return fd;
}

/* Write the body of a request to a file in memory.  Returns its fd, or -1 with errno. */
static int make_request(const struct text *key, const struct text *state, char *const *argv)
{
	struct text body = {0};
	char path[64], score[32];

	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", getppid());
	if (content(path, score, sizeof score) < 0)
		score[0] = 0; /* the start reports the error */
	section(&body, key->data, key->used);
	section(&body, state->data, state->used);
	section(&body, score, strlen(score));
	words(&body, argv);
	words(&body, environ);
	return make_file("request", MFD_CLOEXEC, &body);
}

/* Send a word with fds.  Returns 0 on failure. */
static int send_word(int zygote, const char *word, const int *fds, int count)
{
	char control[CMSG_SPACE(4 * sizeof *fds)] = {0};
	struct iovec data = {(char *)word, strlen(word)};
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = CMSG_SPACE(count * sizeof *fds),
	};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(count * sizeof *fds);
	memcpy(CMSG_DATA(rights), fds, count * sizeof *fds);
	return sendmsg(zygote, &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/* --- the zygote -------------------------------------------------------------------------------- */

/* The path of the socket for a key.  Its name is an FNV-1a hash: collisions do no harm, because the
 * waiting child compares the whole key. */
static int socket_path(char *path, size_t room, const struct text *key)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	uint64_t hash = 0xcbf29ce484222325u;
	size_t i;
	int used;

	for (i = 0; i < key->used; i++)
		hash = (hash ^ (unsigned char)key->data[i]) * 0x100000001b3u;
	if (geteuid() == 0)
		used = snprintf(path, room, "/run/containerd-shim-pyrunc/0/%016llx.sock",
		                (unsigned long long)hash);
	else if (runtime && *runtime == '/')
		used = snprintf(path, room, "%s/containerd-shim-pyrunc/%016llx.sock", runtime,
		                (unsigned long long)hash);
	else
		return 0;
	return used > 0 && (size_t)used < room;
}

/* Whether only this user can make files in the folder of `path`. */
static int is_ours_alone(const char *path)
{
	char folder[sizeof ((struct sockaddr_un *)0)->sun_path];
	struct stat found;

	strcpy(folder, path);
	*strrchr(folder, '/') = 0;
	return !lstat(folder, &found) && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
	       !(found.st_mode & 077);
}

static int connect_to_zygote(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t size = sizeof peer;
	int fd;

	if (!is_ours_alone(path))
		return -1;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.uid != geteuid()) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The number of page faults of the zygote, the owner of the socket: each fork adds some.  -1 if the zygote
 * is stopped or has ended. */
static long zygote_faults(int zygote)
{
	char path[64], stat[1024], *name_end, state;
	struct ucred peer;
	socklen_t size = sizeof peer;
	long faults;

	if (getsockopt(zygote, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return -1;
	snprintf(path, sizeof path, "/proc/%d/stat", peer.pid);
	if (content(path, stat, sizeof stat) < 0)
		return -1;
	name_end = strrchr(stat, ')');
	/* state ppid pgrp session tty_nr tpgid flags minflt */
	if (!name_end || sscanf(name_end + 1, " %c %*d %*d %*d %*d %*d %*u %ld", &state, &faults) != 2)
		return -1;
	return strchr("TtZX", state) ? -1 : faults;
}

static int answers_ok(int zygote)
{
	struct pollfd wait = {.fd = zygote, .events = POLLIN};
	long faults = 0, before = 0;
	int look, idle = 0, came = 0;
	char answer[2];

	for (look = 0; !came && look < LOOKS && idle < IDLE_LOOKS; look++) {
		came = poll(&wait, 1, LOOK_MS);
		if (came)
			break;
		faults = zygote_faults(zygote);
		if (faults < 0)
			return 0;
		idle = look && faults != before ? 0 : idle + 1;
		before = faults;
	}
	return came == 1 && read(zygote, answer, 2) == 2 && !memcmp(answer, "ok", 2);
}

/* Wait for the exit status.  From here on a cold start is not possible. */
static int outcome(int zygote)
{
	static const char lost[] = "the process that did the work was killed";
	unsigned char status;
	ssize_t size;

	fcntl(zygote, F_SETFL, fcntl(zygote, F_GETFL) & ~O_NONBLOCK);
	do
		size = read(zygote, &status, 1);
	while (size < 0 && errno == EINTR);
	if (size == 1)
		return status;
	if (write(2, lost, sizeof lost - 1) < 0)
		return 1; /* the status still reports the failure */
	return 1;
}

/* Returns the exit status, or -1 if a cold start has to do the work.  If the zygote cannot be asked, the
 * reason is written to `reason`. */
static int ask_zygote(const char *path, const struct text *key, int argc, char *const *argv, char *reason,
                      size_t room)
{
	int zygote = connect_to_zygote(path), body = -1, status = -1;
	struct text state = {0};

	if (zygote >= 0 && !make_state(&state)) {
		snprintf(reason, room, "the state of the process cannot be read");
	} else if (zygote >= 0) {
		body = make_request(key, &state, argv);
		if (body < 0)
			snprintf(reason, room, "a file in memory: %s", strerror(errno));
	}
	if (body >= 0 && send_word(zygote, "request", &body, 1) && answers_ok(zygote)) {
		int given[4] = {0, 1, 2, open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};

		if (!strcmp(argv[argc - 1], "delete")) {
			/* A `delete` is not interrupted: the process that does the work ignores these, too. */
			signal(SIGTERM, SIG_IGN);
			signal(SIGINT, SIG_IGN);
		}
		if (given[3] >= 0 && send_word(zygote, "go", given, 4))
			status = outcome(zygote);
	}
	if (zygote >= 0)
		close(zygote);
	if (body >= 0)
		close(body);
	free(state.data);
	return status;
}

/* --- the cold start ----------------------------------------------------------------------------- */

/* Write the description of the zygote that a cold start makes to a file in memory.  Returns its fd, or -1
 * with errno. */
static int make_new_zygote(const char *path, const struct text *key, const char *self)
{
	struct text body = {0};

	section(&body, path, strlen(path));
	section(&body, key->data, key->used);
	section(&body, self, strlen(self));
	return make_file("new-zygote", 0 /* inherited */, &body);
}

/* Whether to ask a zygote: for `start` and `delete`, which come last on containerd's command lines.  Not
 * with core scheduling (SCHED_CORE), because its cookie belongs to one process group. */
static int is_for_zygote(int argc, char *const *argv)
{
	const char *cores = getenv("SCHED_CORE");
	const char *before = argc > 2 ? argv[argc - 2] : "-";

	if (argc < 3 || (cores && *cores))
		return 0;
	if (strcmp(argv[argc - 1], "start") && strcmp(argv[argc - 1], "delete"))
		return 0;
	/* After a flag, "start" may be the value of that flag. */
	return *before != '-' || strchr(before, '=') || !strcmp(before, "-debug");
}

/* Execute Python.  `new_zygote` is the number of an fd (make_new_zygote), or "-", or the reason why there
 * can be no zygote. */
static int become_python(char *conf, char *new_zygote, int argc, char *const *argv)
{
	char *entry = strchr(conf, '\n'), **args = calloc(argc + ENTRY_ARGS + 1, sizeof *args);
	int i;

	if (!args || !entry)
		return 1;
	*entry++ = 0;
	entry[strcspn(entry, "\n")] = 0;
	args[0] = conf;
	args[1] = "-I"; /* isolated: no import depends on the daemon's environment or folder */
	args[2] = entry;
	args[3] = new_zygote;
	for (i = 0; i < argc; i++)
		args[ENTRY_ARGS + i] = argv[i];
	execv(conf, args);
	dprintf(2, "%s: %s", conf, strerror(errno));
	return 1;
}

/* Signals 32 and 33 belong to the C library.  When a process makes its first thread, the C library resets
 * their actions, and later children inherit the default.  So that all shims are equal, the launcher sets
 * the default in all of them, as the Go shim does. */
static void reset_hidden_signals(void)
{
	static const unsigned char default_action[128]; /* all zero, whatever the layout */
	int number;

	for (number = 32; number <= 33; number++) /* sigaction(3) refuses them */
		syscall(SYS_rt_sigaction, number, default_action, NULL, 8 /* bytes of a set */);
}

/* Returns the exit status, or -1 with the argument for become_python in `new_zygote`. */
static int warm_start(const char *self, const char *conf, int argc, char *const *argv, char *new_zygote,
                      size_t room)
{
	char path[sizeof ((struct sockaddr_un *)0)->sun_path];
	struct text key = {0};
	const char *reason = make_key(&key, self, conf);
	int status, fd;

	if (!reason && !socket_path(path, sizeof path, &key))
		reason = "XDG_RUNTIME_DIR, where the zygote's socket would be, is not set";
	if (reason) {
		snprintf(new_zygote, room, "%s", reason);
		return -1;
	}
	*new_zygote = 0;
	status = ask_zygote(path, &key, argc, argv, new_zygote, room);
	if (status < 0 && !*new_zygote) {
		fd = make_new_zygote(path, &key, self);
		if (fd >= 0)
			snprintf(new_zygote, room, "%d", fd);
		else
			snprintf(new_zygote, room, "a file in memory: %s", strerror(errno));
	}
	return status;
}

int main(int argc, char **argv)
{
	char self[PATH_MAX], conf_path[PATH_MAX + 8], new_zygote[PATH_MAX + 512] = "-";
	ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
	struct text conf = {0};
	int status = -1;

	reset_hidden_signals();
	if (size < 0) {
		dprintf(2, "/proc/self/exe: %s", strerror(errno));
		return 1;
	}
	self[size] = 0;
	snprintf(conf_path, sizeof conf_path, "%s.conf", self);
	if (append_file(&conf, conf_path)) {
		dprintf(2, "%s: %s", conf_path, strerror(errno));
		return 1;
	}
	if (is_for_zygote(argc, argv))
		status = warm_start(self, conf.data, argc, argv, new_zygote, sizeof new_zygote);
	return status >= 0 ? status : become_python(conf.data, new_zygote, argc, argv);
}
