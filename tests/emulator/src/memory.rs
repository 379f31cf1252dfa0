//! Global memory: buffers of rows at addresses of their own, with canaries around every row.

use bytemuck::Pod;
use logit_perturb::kernel::DevicePointer;
use memmap2::{MmapMut, MmapOptions};
use std::marker::PhantomData;

/// Where the rows of a buffer lie, in elements. A buffer starts `offset` elements behind a 256-byte boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// From the start of a row to that of the next.
    pub stride: usize,
    /// How far the first row lies behind a 256-byte boundary.
    pub offset: usize,
}

impl Layout {
    /// Rows without gaps, the first on a boundary.
    pub fn dense(rows: usize, columns: usize) -> Self {
        Self { rows, columns, stride: columns, offset: 0 }
    }

    /// With rows this far apart.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With the first row this far behind a boundary.
    pub fn offset(self, offset: usize) -> Self {
        Self { offset, ..self }
    }
}

/// A buffer in a [`Memory`].
pub struct Buffer<T> {
    index: usize,
    address: DevicePointer,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Buffer<T> {}

impl<T> Buffer<T> {
    /// The address of the first element, for a kernel's arguments.
    pub fn address(&self) -> DevicePointer {
        self.address
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The same buffer, whatever its elements are.
    pub(crate) fn bytes(self) -> Buffer<u8> {
        Buffer { index: self.index, address: self.address, element: PhantomData }
    }
}

/// Bytes of canary around rows, or all of the gap where it is smaller.
const CANARY: usize = 256;
const CANARY_BYTE: u8 = 0xc5;

/// A buffer's memory, in bytes.
pub(crate) struct Allocation {
    map: MmapMut,
    /// Where in the map the first row starts.
    first: usize,
    pub rows: usize,
    pub row_bytes: usize,
    pub stride_bytes: usize,
    pub element_bytes: usize,
    pub writable: bool,
    pub watched: bool,
}

impl Allocation {
    fn new<T: Pod>(layout: Layout) -> Self {
        let Layout { rows, columns, stride, offset } = layout;
        assert!(rows > 0 && columns > 0, "a buffer has at least one element");
        assert!(rows == 1 || stride >= columns, "rows overlap");
        let element_bytes = size_of::<T>();
        let (row_bytes, stride_bytes) = (columns * element_bytes, stride.max(columns) * element_bytes);
        let first = CANARY + offset * element_bytes;
        let length = first + (rows - 1) * stride_bytes + row_bytes + CANARY;
        // Untouched pages cost nothing: rows may lie far apart.
        let map = MmapOptions::new().len(length).no_reserve_swap().map_anon();
        let map = map.unwrap_or_else(|error| panic!("no address space for {length} bytes: {error}"));
        let mut allocation =
            Self { map, first, rows, row_bytes, stride_bytes, element_bytes, writable: true, watched: false };
        for (at, bytes) in allocation.canaries() {
            allocation.map[at..at + bytes].fill(CANARY_BYTE);
        }
        allocation
    }

    /// Where canaries start, and their lengths.
    fn canaries(&self) -> Vec<(usize, usize)> {
        let gap = (self.stride_bytes - self.row_bytes).min(CANARY);
        let end = |row: usize| self.first + row * self.stride_bytes + self.row_bytes;
        let gaps = (0..self.rows).map(|row| (end(row), if row + 1 == self.rows { CANARY } else { gap }));
        std::iter::once((0, self.first)).chain(gaps).collect()
    }

    fn check_canaries(&self) -> Result<(), String> {
        for (at, bytes) in self.canaries() {
            if let Some(position) = self.map[at..at + bytes].iter().position(|byte| *byte != CANARY_BYTE) {
                let byte = (at + position) as i64 - self.first as i64;
                return Err(format!("byte {byte} of a buffer of {} rows changed, outside of them", self.rows));
            }
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> u64 {
        self.map.as_ptr() as u64 + self.first as u64
    }

    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.map[self.first + row * self.stride_bytes..][..self.row_bytes]
    }

    fn row_mut(&mut self, row: usize) -> &mut [u8] {
        &mut self.map[self.first + row * self.stride_bytes..][..self.row_bytes]
    }

    /// All rows, without gaps.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        (0..self.rows).flat_map(|row| self.row(row)).copied().collect()
    }

    /// How far an address lies behind the first row's start, where this buffer holds it.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.address())?;
        (offset < ((self.rows - 1) * self.stride_bytes + self.row_bytes) as u64).then_some(offset)
    }
}

/// Global memory. Kernels reach what lies in its buffers' rows and nothing else.
#[derive(Default)]
pub struct Memory {
    pub(crate) allocations: Vec<Allocation>,
}

impl Memory {
    /// A vector with these elements.
    pub fn upload<T: Pod>(&mut self, elements: &[T]) -> Buffer<T> {
        self.upload_rows(elements, Layout::dense(1, elements.len()))
    }

    /// Rows with these elements, which have no gaps.
    pub fn upload_rows<T: Pod>(&mut self, elements: &[T], layout: Layout) -> Buffer<T> {
        let buffer = self.poisoned_rows(layout);
        self.write(buffer, elements);
        buffer
    }

    /// A vector of `length` elements with all bits set: NaN, or -1.
    pub fn poisoned<T: Pod>(&mut self, length: usize) -> Buffer<T> {
        self.poisoned_rows(Layout::dense(1, length))
    }

    /// Rows of elements with all bits set.
    pub fn poisoned_rows<T: Pod>(&mut self, layout: Layout) -> Buffer<T> {
        let mut allocation = Allocation::new::<T>(layout);
        (0..allocation.rows).for_each(|row| allocation.row_mut(row).fill(0xff));
        let address = allocation.address();
        self.allocations.push(allocation);
        Buffer { index: self.allocations.len() - 1, address, element: PhantomData }
    }

    /// The elements, row by row.
    pub fn download<T: Pod>(&self, buffer: Buffer<T>) -> Vec<T> {
        let bytes = self.allocations[buffer.index].bytes();
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Replaces all elements.
    pub fn write<T: Pod>(&mut self, buffer: Buffer<T>, elements: &[T]) {
        let allocation = &mut self.allocations[buffer.index];
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        assert_eq!(bytes.len(), allocation.rows * allocation.row_bytes, "as many elements as the buffer has");
        for (row, bytes) in bytes.chunks_exact(allocation.row_bytes).enumerate() {
            allocation.row_mut(row).copy_from_slice(bytes);
        }
    }

    /// From here on, a store to it is a fault.
    pub fn read_only<T>(&mut self, buffer: Buffer<T>) {
        self.allocations[buffer.index].writable = false;
    }

    /// From here on, launches report how often each element was read and written, and in how many sectors.
    pub fn watch<T>(&mut self, buffer: Buffer<T>) {
        self.allocations[buffer.index].watched = true;
    }

    pub(crate) fn check_canaries(&self) -> Vec<String> {
        self.allocations.iter().filter_map(|allocation| allocation.check_canaries().err()).collect()
    }
}
