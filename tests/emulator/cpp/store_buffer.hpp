// Stores on their way to memory: seen by some threads before the others.
#pragma once
#include "random.hpp"
#include <array>
#include <cstring>
#include <vector>

namespace emulator {

class StoreBuffer {
  public:
    // `older`: holds stores that come before all of these. None of these reaches a line before they do.
    explicit StoreBuffer(StoreBuffer* older = nullptr) : older_(older) {}

    void add(uint64_t address, const void* value, uint32_t bytes, bool streamed) {
        Entry entry = {address, bytes, streamed, {}};
        std::memcpy(entry.value, value, bytes);
        add(entry);
    }

    // An access never crosses a 16-byte line, since it is aligned to its size.
    void overlay(uint64_t address, void* value, uint32_t bytes) const {
        if (lines_[filter(address)] == 0) return;
        for (const Entry& entry : entries_) {
            const uint64_t from = entry.address > address ? entry.address : address;
            const uint64_t entry_end = entry.address + entry.bytes, end = address + bytes;
            const uint64_t to = entry_end < end ? entry_end : end;
            if (from < to) {
                std::memcpy(static_cast<char*>(value) + (from - address), entry.value + (from - entry.address), to - from);
            }
        }
    }

    void drain_some(Random& random) {
        if (!entries_.empty()) drain_first_of(line(entries_[random.below(entries_.size())].address));
    }
    // Streamed stores go first: what waits longest are the few numbers that blocks tell each other.
    void shrink_to(size_t most, Random& random) {
        while (entries_.size() > most) {
            size_t victim = random.below(entries_.size());
            for (int tries = 0; tries < 8 && !entries_[victim].streamed; ++tries) victim = random.below(entries_.size());
            drain_first_of(line(entries_[victim].address));
        }
    }
    void drain(Random& random) { shrink_to(0, random); }
    void drain_line_of(uint64_t address) {
        while (lines_[filter(address)] != 0 && drain_first_of(line(address))) {}
    }

    void move_to(StoreBuffer& other) {
        for (const Entry& entry : entries_) other.add(entry);
        entries_.clear();
        lines_.fill(0);
    }

  private:
    struct Entry {
        uint64_t address;
        uint32_t bytes;
        bool streamed;
        unsigned char value[16];
    };

    static uint64_t line(uint64_t address) { return address / 16; }
    static size_t filter(uint64_t address) { return line(address) % 256; }

    void add(const Entry& entry) {
        entries_.push_back(entry);
        ++lines_[filter(entry.address)];
    }

    // The oldest store to the line, so that the order at each address is kept.
    bool drain_first_of(uint64_t of_line) {
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (line(entry->address) != of_line) continue;
            if (older_) older_->drain_line_of(entry->address);
            std::memcpy(reinterpret_cast<void*>(entry->address), entry->value, entry->bytes);
            --lines_[filter(entry->address)];
            entries_.erase(entry);
            return true;
        }
        return false;
    }

    StoreBuffer* older_;
    std::vector<Entry> entries_;
    // How many stores there are to the lines that share a place: most loads find 0 and look no further.
    std::array<uint16_t, 256> lines_{};
};

} // namespace emulator
