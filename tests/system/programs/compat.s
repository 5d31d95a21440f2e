# A 32-bit program without a C library: system calls by int 0x80 and through the vDSO's entry, whose instruction it names.
	.text
	.globl _start
_start:
	mov	%esp, %esi		# argc, argv, 0, environment, 0, auxiliary vector

	mov	$4, %eax		# write
	mov	$1, %ebx
	mov	$int80, %ecx
	mov	$int80_len, %edx
	int	$0x80
	cmp	$int80_len, %eax
	jne	fail

	lodsl				# argc
	lea	4(%esi,%eax,4), %esi	# the environment
1:	lodsl
	test	%eax, %eax
	jnz	1b
2:	lodsl				# the auxiliary vector: type, value
	test	%eax, %eax
	jz	fail
	cmp	$32, %eax		# AT_SYSINFO
	lodsl
	jne	2b
	mov	%eax, %edi

	mov	$16, %ecx
	mov	%edi, %edx
4:	cmpw	$0x050f, (%edx)
	je	5f
	cmpw	$0x340f, (%edx)
	je	6f
	inc	%edx
	loop	4b
	jmp	7f
5:	mov	$syscall, %ecx
	mov	$syscall_len, %edx
	jmp	8f
6:	mov	$sysenter, %ecx
	mov	$sysenter_len, %edx
8:	mov	$4, %eax
	mov	$1, %ebx
	int	$0x80

7:	mov	$200, %ebp		# many, so that a lost one shows
3:	mov	$20, %eax		# getpid
	call	*%edi
	test	%eax, %eax
	jle	fail
	dec	%ebp
	jnz	3b

	mov	$4, %eax
	mov	$1, %ebx
	mov	$vdso, %ecx
	mov	$vdso_len, %edx
	call	*%edi
	cmp	$vdso_len, %eax
	jne	fail

	mov	$42, %ebx
	mov	$1, %eax		# exit
	int	$0x80
fail:
	mov	$1, %ebx
	mov	$1, %eax
	int	$0x80

	.data
int80:	.ascii	"int 0x80 works\n"
	.set	int80_len, . - int80
syscall:
	.ascii	"the vDSO has syscall\n"
	.set	syscall_len, . - syscall
sysenter:
	.ascii	"the vDSO has sysenter\n"
	.set	sysenter_len, . - sysenter
vdso:	.ascii	"the vDSO works\n"
	.set	vdso_len, . - vdso
	.section .note.GNU-stack, "", @progbits
