// Each exception a process can cause arrives as its signal, and the process goes on.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int caught;

static void handler(int signal)
{
	caught = signal;
	siglongjmp(back, 1);
}

static const char *name(int signal)
{
	switch (signal) {
	case SIGFPE: return "SIGFPE";
	case SIGTRAP: return "SIGTRAP";
	case SIGILL: return "SIGILL";
	case SIGSEGV: return "SIGSEGV";
	case SIGBUS: return "SIGBUS";
	default: return "nothing";
	}
}

#define EXPECT(what, code) \
	do { \
		caught = 0; \
		if (!sigsetjmp(back, 1)) { \
			code; \
		} \
		printf("%s %s\n", what, name(caught)); \
	} while (0)

static volatile long watched;

// A hardware watchpoint that a tracer sets in the debug registers.
static void watchpoint(void)
{
	pid_t child = fork();
	int status = 0;
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		watched = 1;
		_exit(0);
	}
	waitpid(child, &status, 0);
	ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[0]), &watched);
	// enabled locally, on writes, eight bytes
	ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[7]), 0x1 | 0x1 << 16 | 0x2 << 18);
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
	printf("watchpoint %s\n", WIFSTOPPED(status) ? name(WSTOPSIG(status)) : "nothing");
	ptrace(PTRACE_KILL, child, 0, 0);
	waitpid(child, &status, 0);
}

int main(void)
{
	int signals[] = { SIGFPE, SIGTRAP, SIGILL, SIGSEGV, SIGBUS };
	setvbuf(stdout, NULL, _IONBF, 0);
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
		signal(signals[i], handler);

	// getpid of 32-bit programs; 20 of the 64-bit table is writev, which would fail.
	long pid;
	asm volatile("int $0x80" : "=a"(pid) : "0"(20L) : "r8", "r9", "r10", "r11", "memory");
	printf("int80 %s\n", pid == getpid() ? "20" : "wrong");

	EXPECT("divide", asm volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax; div %%ecx" ::: "eax", "ecx", "edx"));
	EXPECT("breakpoint", asm volatile("int3"));
	EXPECT("step", asm volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop" ::: "cc", "memory"));
	EXPECT("illegal", asm volatile("ud2"));
	EXPECT("privileged", asm volatile("cli; hlt"));
	EXPECT("null", *(volatile int *)8 = 1);
	EXPECT("non-canonical", *(volatile int *)0x8000000000000000 = 1);
	watchpoint();

	// The C library's thread pointer is in FS's base: it must still be ours after all that.
	uint64_t self;
	asm volatile("mov %%fs:0, %0" : "=r"(self));
	printf("fsbase %s\n", self == *(uint64_t *)self ? "kept" : "lost");
	return 0;
}
