"""Small everyday functions about lists and dictionaries, written for pico (see primer_numbers)."""

from __future__ import annotations

import random
import time


def sum_list(numbers):
    """Return the sum of a list of numbers.

    Also: sum the numbers in a list | add up all numbers in a list | compute the sum of a list
    """
    total = 0
    for number in numbers:
        total += number
    return total


def product(numbers):
    """Return the product of a list of numbers.

    Also: multiply all numbers in a list
    """
    result = 1
    for number in numbers:
        result *= number
    return result


def mean(numbers):
    """Return the average of a list of numbers.

    Also: compute the mean of a list | calculate the average of numbers
    """
    return sum(numbers) / len(numbers) if numbers else 0.0


def median(numbers):
    """Return the median of a list of numbers.

    Also: compute the median of a list
    """
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def mode(items):
    """Return the most common element of a list.

    Also: find the most frequent item in a list | compute the mode of a list
    """
    return max(set(items), key=items.count)


def variance(numbers):
    """Compute the variance of a list of numbers."""
    mean = sum(numbers) / len(numbers)
    return sum((x - mean) ** 2 for x in numbers) / len(numbers)


def standard_deviation(numbers):
    """Compute the standard deviation of a list of numbers."""
    mean = sum(numbers) / len(numbers)
    return (sum((x - mean) ** 2 for x in numbers) / len(numbers)) ** 0.5


def find_max(numbers):
    """Find the largest number in a list.

    Also: return the maximum of a list | return the largest element of a list
    """
    largest = numbers[0]
    for number in numbers[1:]:
        if number > largest:
            largest = number
    return largest


def find_min(numbers):
    """Find the smallest number in a list.

    Also: return the minimum of a list | return the smallest element of a list
    """
    smallest = numbers[0]
    for number in numbers[1:]:
        if number < smallest:
            smallest = number
    return smallest


def second_largest(numbers):
    """Find the second largest number in a list.

    Also: return the second largest element of a list
    """
    unique = sorted(set(numbers), reverse=True)
    return unique[1] if len(unique) > 1 else None


def reverse_list(items):
    """Reverse a list.

    Also: return a list in reverse order
    """
    return items[::-1]


def remove_duplicates(items):
    """Remove duplicates from a list.

    Also: return the unique elements of a list | remove repeated items and keep the order
    """
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            result.append(item)
    return result


def even_numbers(numbers):
    """Return the even numbers in a list.

    Also: filter the even numbers from a list
    """
    return [n for n in numbers if n % 2 == 0]


def odd_numbers(numbers):
    """Return the odd numbers in a list.

    Also: filter the odd numbers from a list
    """
    return [n for n in numbers if n % 2 == 1]


def sum_even(numbers):
    """Return the sum of the even numbers in a list.

    Also: sum all even numbers in a list
    """
    return sum(n for n in numbers if n % 2 == 0)


def positive_numbers(numbers):
    """Filter the positive numbers from a list."""
    return [n for n in numbers if n > 0]


def squares(numbers):
    """Return the squares of a list of numbers.

    Also: square each number in a list
    """
    return [n * n for n in numbers]


def flatten(nested):
    """Flatten a nested list.

    Also: flatten a list of lists
    """
    result = []
    for item in nested:
        if isinstance(item, list):
            result.extend(flatten(item))
        else:
            result.append(item)
    return result


def chunk(items, size):
    """Split a list into chunks of a given size.

    Also: divide a list into chunks | split a list into parts of size n
    """
    return [items[i : i + size] for i in range(0, len(items), size)]


def rotate(items, steps):
    """Rotate a list by a number of steps.

    Also: rotate a list to the left
    """
    if not items:
        return []
    steps %= len(items)
    return items[steps:] + items[:steps]


def merge_sorted(a, b):
    """Merge two sorted lists.

    Also: merge two sorted lists into one sorted list
    """
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]


def intersection(a, b):
    """Return the common elements of two lists.

    Also: find the intersection of two lists
    """
    return [item for item in a if item in b]


def index_of(items, target):
    """Find the index of an item in a list.

    Also: return the position of an element in a list
    """
    for index, item in enumerate(items):
        if item == target:
            return index
    return -1


def count_occurrences(items, target):
    """Count how often an item occurs in a list.

    Also: count the occurrences of an element in a list
    """
    return sum(1 for item in items if item == target)


def is_sorted(items):
    """Check whether a list is sorted.

    Also: return True if a list is sorted
    """
    return all(a <= b for a, b in zip(items, items[1:]))


def bubble_sort(items):
    """Sort a list with bubble sort.

    Also: implement bubble sort
    """
    items = list(items)
    for i in range(len(items)):
        for j in range(len(items) - 1 - i):
            if items[j] > items[j + 1]:
                items[j], items[j + 1] = items[j + 1], items[j]
    return items


def quick_sort(items):
    """Sort a list with quicksort.

    Also: implement quicksort
    """
    if len(items) <= 1:
        return items
    pivot = items[len(items) // 2]
    smaller = [x for x in items if x < pivot]
    equal = [x for x in items if x == pivot]
    larger = [x for x in items if x > pivot]
    return quick_sort(smaller) + equal + quick_sort(larger)


def merge_sort(items):
    """Sort a list with merge sort.

    Also: implement merge sort
    """
    if len(items) <= 1:
        return items
    middle = len(items) // 2
    left = merge_sort(items[:middle])
    right = merge_sort(items[middle:])
    return merge_sorted(left, right)


def sort_numbers(numbers):
    """Sort a list of numbers.

    Also: sort a list in ascending order
    """
    return sorted(numbers)


def sort_by_length(words):
    """Sort a list of strings by length.

    Also: sort words by their length
    """
    return sorted(words, key=len)


def binary_search(items, target):
    """Find an item in a sorted list with binary search.

    Also: implement binary search | search a sorted list
    """
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1


def two_sum(numbers, target):
    """Find two numbers in a list that add up to a target.

    Also: return the indices of two numbers that sum to a target
    """
    seen = {}
    for index, number in enumerate(numbers):
        if target - number in seen:
            return seen[target - number], index
        seen[number] = index
    return None


def transpose(matrix):
    """Transpose a matrix.

    Also: swap the rows and columns of a matrix
    """
    return [list(row) for row in zip(*matrix)]


def matrix_multiply(a, b):
    """Multiply two matrices."""
    return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def dot_product(a, b):
    """Compute the dot product of two vectors."""
    return sum(x * y for x, y in zip(a, b))


def merge_dicts(a, b):
    """Merge two dictionaries.

    Also: combine two dictionaries into one
    """
    result = dict(a)
    result.update(b)
    return result


def invert_dict(mapping):
    """Swap the keys and values of a dictionary.

    Also: invert a dictionary
    """
    return {value: key for key, value in mapping.items()}


def sort_dict_by_value(mapping):
    """Sort a dictionary by its values."""
    return dict(sorted(mapping.items(), key=lambda item: item[1]))


def group_by(items, key):
    """Group a list of items by a key.

    Also: group items by the result of a function
    """
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def shuffle_list(items):
    """Shuffle a list.

    Also: return a list in random order
    """
    result = list(items)
    random.shuffle(result)
    return result


def random_number(low, high):
    """Return a random number between two values.

    Also: generate a random integer in a range
    """
    return random.randint(low, high)


def measure_time(function, *args):
    """Measure how long a function takes.

    Also: time a function call
    """
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def retry(function, attempts=3):
    """Call a function again until it succeeds.

    Also: retry a function a number of times
    """
    for attempt in range(attempts):
        try:
            return function()
        except Exception:
            if attempt == attempts - 1:
                raise
