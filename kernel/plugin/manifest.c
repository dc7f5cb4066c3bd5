/* SPDX-License-Identifier: Apache-2.0 */
/* manifest.c - what a plugin says about itself, read from its ELF note by a mapping: no line of its code runs.
 *
 * The file is foreign: every offset and length is checked against the file's size before it is followed. */
#include "config/tree.h"
#include "plugin/plugin.h"
#include <elf.h>
#include <errno.h>
#include <stdio.h>

#define FILE_MAX (1ull << 30)
#define TEXT_MAX 65536u
#define LIST_MAX 64u

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OUR_MACHINE EM_RISCV
#else
#define OUR_MACHINE EM_NONE
#endif

struct view { const uint8_t *p; uint64_t len; const char *path; };

static zr_status refuse(const char *path, const char *rule, const char *why)
{
    zk_err_raise(ZR_EINVAL, 0, "%s: %s %s", rule, path, why);
    return ZR_EINVAL;
}

static uint32_t within(const struct view *v, uint64_t off, uint64_t len) { return off <= v->len && v->len - off >= len; }

static zr_status check_header(const struct view *v, Elf64_Ehdr *ret)
{
    if (v->len < sizeof *ret || memcmp(v->p, ELFMAG, SELFMAG) != 0)
        return refuse(v->path, "L03", "is no ELF file");
    memcpy(ret, v->p, sizeof *ret);
    if (ret->e_ident[EI_CLASS] != ELFCLASS64 || ret->e_ident[EI_DATA] != ELFDATA2LSB || ret->e_type != ET_DYN)
        return refuse(v->path, "L03", "is no 64-bit little-endian shared object");
    if (OUR_MACHINE != EM_NONE && ret->e_machine != OUR_MACHINE)
        return refuse(v->path, "L03", "was built for another processor");
    if (ret->e_phentsize != sizeof(Elf64_Phdr) || !within(v, ret->e_phoff, (uint64_t)ret->e_phnum * sizeof(Elf64_Phdr)))
        return refuse(v->path, "L03", "is a damaged ELF file (program headers)");
    for (uint32_t i = 0; i < ret->e_phnum; i++) { /* a file that ends early would take the loader, and us, down with SIGBUS */
        Elf64_Phdr ph;
        memcpy(&ph, v->p + ret->e_phoff + i * sizeof ph, sizeof ph);
        if (ph.p_type == PT_LOAD && !within(v, ph.p_offset, ph.p_filesz))
            return refuse(v->path, "L03", "is a damaged ELF file (it ends within a segment)");
    }
    return ZR_OK;
}

/* The text of our note within one segment of notes, or an empty one. */
static struct zr_str note_in(const struct view *v, uint64_t off, uint64_t len, uint64_t align)
{
    uint64_t end = off + len, step = align == 8 ? 8 : 4;
    while (end - off >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr n;
        memcpy(&n, v->p + off, sizeof n);
        uint64_t name = off + sizeof n;
        uint64_t desc = name + ((n.n_namesz + step - 1) & ~(step - 1));
        uint64_t next = desc + ((n.n_descsz + step - 1) & ~(step - 1));
        if (desc > end || n.n_descsz > end - desc)
            break;
        if (n.n_type == ZR_NOTE_TYPE && n.n_namesz == sizeof ZR_NOTE_OWNER && memcmp(v->p + name, ZR_NOTE_OWNER, sizeof ZR_NOTE_OWNER) == 0) {
            /* The owner's field is 8 bytes whatever the segment's alignment. */
            uint64_t text = name + 8;
            if (n.n_descsz <= end - text)
                return (struct zr_str){ (const char *)v->p + text, strnlen((const char *)v->p + text, n.n_descsz) };
        }
        if (next > end)
            break;
        off = next;
    }
    return (struct zr_str){ NULL, 0 };
}

static zr_status find_note(const struct view *v, struct zr_str *ret)
{
    Elf64_Ehdr eh;
    zr_status status = check_header(v, &eh);
    if (status != ZR_OK)
        return status;
    for (uint32_t i = 0; i < eh.e_phnum; i++) {
        Elf64_Phdr ph;
        memcpy(&ph, v->p + eh.e_phoff + i * sizeof ph, sizeof ph);
        if (ph.p_type != PT_NOTE || !within(v, ph.p_offset, ph.p_filesz))
            continue;
        *ret = note_in(v, ph.p_offset, ph.p_filesz, ph.p_align);
        if (ret->len > TEXT_MAX)
            return refuse(v->path, "L05", "has a manifest of more than 64 KiB");
        if (ret->ptr)
            return ZR_OK;
    }
    return refuse(v->path, "L04", "has no Zarya manifest note (is it a plugin? ZR_MANIFEST is missing)");
}

/* ---- the text ---------------------------------------------------------------------------------------------------------------- */

struct lists { const char *items[4][LIST_MAX + 1]; uint32_t n[4]; };

static uint32_t is_token(struct zr_str s)
{
    for (uint64_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] <= 0x20 || (unsigned char)s.ptr[i] >= 0x7f || s.ptr[i] == '"' || s.ptr[i] == '/')
            if (s.ptr[i] != '/' || i == 0)
                return 0;
    return s.len > 0 && s.len <= 128;
}

static zr_status parse_abi(struct zk_manifest *m, struct zr_str value)
{
    struct zr_str major, rest = value;
    int32_t a, b;
    if (!zl_split(&rest, '.', &major) || zl_parse_i32(major, &a) != ZR_OK || zl_parse_i32(rest, &b) != ZR_OK || a < 0 || b < 0)
        return refuse(m->path, "L05", "has a manifest whose abi is not of the form major.minor");
    m->abi_major = (uint32_t)a;
    m->abi_minor = (uint32_t)b;
    return ZR_OK;
}

static zr_status take_pair(struct zk_manifest *m, struct lists *lists, struct zr_str key, struct zr_str value, uint32_t *has_abi)
{
    static const char *const list_keys[] = { "provides", "requires", "wants", "conflicts" };
    if (zl_is(key, "abi")) {
        *has_abi = 1;
        return parse_abi(m, value);
    }
    if (!zl_is(key, "id") && !zl_is(key, "version") && !zl_is(key, "provides") && !zl_is(key, "requires") && !zl_is(key, "wants") &&
        !zl_is(key, "conflicts"))
        return ZR_OK; /* of a later minor */
    if (!is_token(value))
        return refuse(m->path, "L05", zk_conf_fmt("has a manifest whose %.*s is empty or has blanks", (int)key.len, key.ptr));
    if (zl_is(key, "id"))
        m->id = zk_conf_dup(value);
    else if (zl_is(key, "version"))
        m->version = zk_conf_dup(value);
    for (uint32_t i = 0; i < 4; i++) {
        if (!zl_is(key, list_keys[i]))
            continue;
        if (lists->n[i] == LIST_MAX)
            return refuse(m->path, "L05", "has a manifest with more than 64 lines of one kind");
        lists->items[i][lists->n[i]++] = zk_conf_dup(value);
    }
    return ZR_OK;
}

static const char **keep_list(struct lists *lists, uint32_t i)
{
    const char **list = zk_conf_alloc((lists->n[i] + 1u) * sizeof *list);
    memcpy(list, lists->items[i], lists->n[i] * sizeof *list);
    return list;
}

static zr_status parse_text(struct zk_manifest *m, struct zr_str text)
{
    struct lists *lists = zk_conf_alloc(sizeof *lists);
    struct zr_str rest = text, line;
    uint32_t has_abi = 0;
    while (rest.len > 0 && zl_split(&rest, '\n', &line)) {
        struct zr_str key, value = zl_trim(line);
        if (value.len == 0 || value.ptr[0] == '#')
            continue;
        if (!memchr(value.ptr, '=', value.len))
            return refuse(m->path, "L05", zk_conf_fmt("has a manifest line that is not key = value: %.*s", (int)(line.len < 80 ? line.len : 80), line.ptr));
        zl_split(&value, '=', &key);
        zr_status status = take_pair(m, lists, zl_trim(key), zl_trim(value), &has_abi);
        if (status != ZR_OK)
            return status;
    }
    if (!m->id || !m->version || !has_abi)
        return refuse(m->path, "L05", zk_conf_fmt("has a manifest without %s", !m->id ? "id" : !m->version ? "version" : "abi"));
    m->provides = keep_list(lists, 0);
    m->requires = keep_list(lists, 1);
    m->wants = keep_list(lists, 2);
    m->conflicts = keep_list(lists, 3);
    return ZR_OK;
}

static zr_status check_abi(const struct zk_manifest *m)
{
    if (m->abi_major != ZR_ABI_MAJOR)
        return refuse(m->path, "L06", zk_conf_fmt("needs ABI major %u, this kernel has %u", m->abi_major, ZR_ABI_MAJOR));
    if (m->abi_minor > ZR_ABI_MINOR)
        return refuse(m->path, "L07", zk_conf_fmt("needs ABI %u.%u, this kernel has %u.%u; a newer zarya would run it", m->abi_major, m->abi_minor,
                                                  ZR_ABI_MAJOR, ZR_ABI_MINOR));
    return ZR_OK;
}

zr_status zk_manifest_read(const char *path, struct zk_manifest *ret)
{
    const struct zr_io_v1 *io = zk_io();
    struct zr_io_stat st;
    const void *addr = NULL;
    struct zr_str text = { NULL, 0 };
    memset(ret, 0, sizeof *ret);
    ret->path = zk_conf_dup(zl_str(path));
    int64_t fd = io->open(io->ctx, path, ZR_IO_READ, 0);
    if (fd < 0) {
        zk_err_raise(ZR_EIO, (int32_t)-fd, "L01: %s cannot be opened", path);
        return ZR_EIO;
    }
    int64_t rc = io->fstat(io->ctx, (int32_t)fd, &st);
    if (rc == 0 && !st.is_dir && st.size >= sizeof(Elf64_Ehdr) && st.size <= FILE_MAX)
        rc = io->map(io->ctx, (int32_t)fd, 0, st.size, &addr);
    io->close(io->ctx, (int32_t)fd);
    if (rc < 0) {
        zk_err_raise(ZR_EIO, (int32_t)-rc, "L01: %s cannot be read", path);
        return ZR_EIO;
    }
    if (!addr)
        return refuse(path, "L03", "is no ELF file");
    struct view v = { addr, st.size, ret->path };
    zr_status status = find_note(&v, &text);
    if (status == ZR_OK) {
        ret->text = zk_conf_dup(text);
        status = parse_text(ret, text);
    }
    io->unmap(io->ctx, addr, st.size);
    return status == ZR_OK ? check_abi(ret) : status;
}

uint32_t zk_manifest_has(const char *const *list, const char *what)
{
    for (; list && *list; list++)
        if (strcmp(*list, what) == 0)
            return 1;
    return 0;
}
