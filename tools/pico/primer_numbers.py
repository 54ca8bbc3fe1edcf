"""Small everyday functions about numbers, written for pico: what people first ask a model for.

Each docstring is a request; the phrases after ``Also:`` are other ways to ask for the same.
"""

from __future__ import annotations


def add(a, b):
    """Add two numbers.

    Also: return the sum of two numbers | return the sum of a and b
    """
    return a + b


def multiply(a, b):
    """Multiply two numbers.

    Also: return the product of two numbers
    """
    return a * b


def square(x):
    """Return the square of a number.

    Also: compute the square of x
    """
    return x * x


def is_even(n):
    """Check whether a number is even.

    Also: return True if a number is even
    """
    return n % 2 == 0


def is_odd(n):
    """Check whether a number is odd.

    Also: return True if n is odd
    """
    return n % 2 == 1


def absolute(x):
    """Return the absolute value of a number."""
    return -x if x < 0 else x


def clamp(value, low, high):
    """Clamp a value between a minimum and a maximum.

    Also: limit a number to a range
    """
    return max(low, min(value, high))


def factorial(n):
    """Compute the factorial of a number.

    Also: return the factorial of n | calculate n factorial
    """
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


def factorial_recursive(n):
    """Compute the factorial of a number recursively."""
    if n <= 1:
        return 1
    return n * factorial_recursive(n - 1)


def fibonacci(n):
    """Return the nth Fibonacci number.

    Also: compute the n-th Fibonacci number | calculate fibonacci numbers
    """
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def fibonacci_list(n):
    """Return the first n Fibonacci numbers.

    Also: generate the Fibonacci sequence | make a list of Fibonacci numbers
    """
    numbers = []
    a, b = 0, 1
    for _ in range(n):
        numbers.append(a)
        a, b = b, a + b
    return numbers


def is_prime(n):
    """Check whether a number is prime.

    Also: return True if n is a prime number | test if a number is prime
    """
    if n < 2:
        return False
    for i in range(2, int(n**0.5) + 1):
        if n % i == 0:
            return False
    return True


def primes_up_to(n):
    """Return all prime numbers up to n.

    Also: find the primes below a limit | generate a list of primes
    """
    sieve = [True] * (n + 1)
    primes = []
    for i in range(2, n + 1):
        if sieve[i]:
            primes.append(i)
            for j in range(i * i, n + 1, i):
                sieve[j] = False
    return primes


def prime_factors(n):
    """Return the prime factors of a number.

    Also: factor a number into primes
    """
    factors = []
    divisor = 2
    while n > 1:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    return factors


def divisors(n):
    """Return all divisors of a number.

    Also: find the divisors of n | list the factors of a number
    """
    return [i for i in range(1, n + 1) if n % i == 0]


def gcd(a, b):
    """Compute the greatest common divisor of two numbers.

    Also: find the gcd of two integers
    """
    while b:
        a, b = b, a % b
    return a


def lcm(a, b):
    """Compute the least common multiple of two numbers.

    Also: find the lcm of two integers
    """
    x, y = a, b
    while y:
        x, y = y, x % y
    return a * b // x


def power(base, exponent):
    """Raise a number to a power.

    Also: compute base to the power of exponent
    """
    result = 1
    for _ in range(exponent):
        result *= base
    return result


def sum_of_digits(n):
    """Return the sum of the digits of a number.

    Also: add up the digits of an integer | sum the digits of n
    """
    return sum(int(digit) for digit in str(abs(n)))


def count_digits(n):
    """Count the digits in a number."""
    return len(str(abs(n)))


def reverse_number(n):
    """Reverse the digits of a number."""
    sign = -1 if n < 0 else 1
    return sign * int(str(abs(n))[::-1])


def sum_to(n):
    """Return the sum of the numbers from 1 to n.

    Also: sum all integers up to n
    """
    return n * (n + 1) // 2


def is_leap_year(year):
    """Check whether a year is a leap year.

    Also: return True if the year is a leap year
    """
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def celsius_to_fahrenheit(celsius):
    """Convert Celsius to Fahrenheit.

    Also: convert a temperature from Celsius to Fahrenheit
    """
    return celsius * 9 / 5 + 32


def fahrenheit_to_celsius(fahrenheit):
    """Convert Fahrenheit to Celsius.

    Also: convert a temperature from Fahrenheit to Celsius
    """
    return (fahrenheit - 32) * 5 / 9


def circle_area(radius):
    """Compute the area of a circle.

    Also: return the area of a circle with a given radius
    """
    return 3.141592653589793 * radius**2


def rectangle_area(width, height):
    """Compute the area of a rectangle."""
    return width * height


def distance(x1, y1, x2, y2):
    """Compute the distance between two points.

    Also: return the Euclidean distance between two points
    """
    return ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5


def max_of_three(a, b, c):
    """Return the largest of three numbers.

    Also: find the maximum of three numbers
    """
    if a >= b and a >= c:
        return a
    if b >= c:
        return b
    return c


def to_binary(n):
    """Convert a number to binary.

    Also: return the binary representation of an integer
    """
    if n == 0:
        return "0"
    bits = []
    while n:
        bits.append(str(n % 2))
        n //= 2
    return "".join(reversed(bits))


def from_binary(text):
    """Convert a binary string to an integer."""
    value = 0
    for bit in text:
        value = value * 2 + int(bit)
    return value


def fizzbuzz(n):
    """Print the FizzBuzz numbers up to n.

    Also: solve fizzbuzz | play FizzBuzz
    """
    for i in range(1, n + 1):
        if i % 15 == 0:
            print("FizzBuzz")
        elif i % 3 == 0:
            print("Fizz")
        elif i % 5 == 0:
            print("Buzz")
        else:
            print(i)


def collatz(n):
    """Return the Collatz sequence of a number."""
    sequence = [n]
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        sequence.append(n)
    return sequence


def percentage(part, whole):
    """Compute what percentage a part is of a whole."""
    return 100 * part / whole if whole else 0.0


def is_perfect(n):
    """Check whether a number is perfect."""
    return n > 1 and sum(i for i in range(1, n) if n % i == 0) == n


def is_armstrong(n):
    """Check whether a number is an Armstrong number."""
    digits = str(n)
    return n == sum(int(d) ** len(digits) for d in digits)
