/* How often the clock goes back between threads on all CPUs, and whether reading it needs a system call. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 64

static pthread_spinlock_t lock;
static long long last, back;
static int stop;

static int read_clock(long long *ns)
{
	struct timespec t;
	int failed = clock_gettime(CLOCK_MONOTONIC, &t);
	*ns = t.tv_sec * 1000000000LL + t.tv_nsec;
	return failed;
}

static void *look(void *cpu)
{
	cpu_set_t only;
	long long now;
	CPU_ZERO(&only);
	CPU_SET((long)cpu, &only);
	sched_setaffinity(0, sizeof only, &only);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		pthread_spin_lock(&lock);
		read_clock(&now);
		back += now < last;
		last = now;
		pthread_spin_unlock(&lock);
	}
	return NULL;
}

/* From here on the system call fails. */
static int forbid_the_call(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof program / sizeof *program, program };
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

int main(void)
{
	pthread_t threads[MOST];
	long long now;
	long count = sysconf(_SC_NPROCESSORS_ONLN);
	if (count > MOST)
		count = MOST;
	pthread_spin_init(&lock, 0);
	for (long cpu = 0; cpu < count; cpu++)
		if (pthread_create(&threads[cpu], NULL, look, (void *)cpu))
			return 1;
	sleep(1);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (long cpu = 0; cpu < count; cpu++)
		pthread_join(threads[cpu], NULL);
	if (forbid_the_call())
		return 2;
	printf("back %lld %s\n", back, read_clock(&now) ? "by a call" : "without a call");
	return 0;
}
