"""The words the stories are made of: who, where and what."""


def words(text: str) -> list[str]:
    """One word after the other."""
    return text.split()


def lines(text: str) -> list[str]:
    """One a line."""
    return text.strip().splitlines()


def table(text: str) -> list[tuple[str, ...]]:
    """One row a line, its fields set apart by bars."""
    return [tuple(field.strip() for field in line.split("|")) for line in lines(text)]


GIRLS = words("""
    Mia Lily Anna Emma Ella Sara Lucy Zoe Nora Ruby Rosa Amy Molly Jane Eva Ivy Clara Kate Nina Maya Sue Tess Lena
    Grace Daisy Alice
""")

BOYS = words("""
    Tom Ben Sam Tim Jack Leo Max Finn Noah Jake Dan Oscar Paul Will Theo Luke Adam Peter Mark Hugo Eli Nick Owen Joe
    Henry Ravi
""")

SHE_PETS = words("""
    Coco Bella Dot Honey Pepper Rosie Penny Hazel Fern Luna Mimi Poppy Tilly Willow Nutmeg Pearl
""")

HE_PETS = words("""
    Pip Buddy Rusty Bobo Toby Milo Otto Charlie Barney Teddy Waldo Sunny Bruno Fuzzy Ziggy Oliver
""")

# Kind, and what it holds things with.
ANIMALS = table("""
dog      | paw
puppy    | paw
cat      | paw
kitten   | paw
rabbit   | paw
bunny    | paw
fox      | paw
bear     | paw
mouse    | paw
squirrel | paw
hedgehog | paw
mole     | paw
beaver   | paw
badger   | paw
raccoon  | paw
otter    | paw
lion     | paw
panda    | paw
duck     | wing
hen      | wing
penguin  | wing
goose    | wing
frog     | hand
monkey   | hand
pig      | foot
lamb     | foot
pony     | foot
goat     | foot
elephant | foot
turtle   | foot
""")

# More often little than brave.
LOOKS = words("""
    little little little little small small young brave kind clever curious shy cheerful gentle
""")

# Who, he or she, and how one calls them; the hero's "his" or "her" goes in front.
FAMILY = table("""
mom         | she | Mom
mother      | she | Mother
dad         | he  | Dad
father      | he  | Father
grandma     | she | Grandma
grandpa     | he  | Grandpa
big sister  | she | sister
big brother | he  | brother
aunt        | she | Auntie
uncle       | he  | Uncle
""")

# The same for those outside the family.
WISE = table("""
old owl        | he  | Owl
wise owl       | she | Owl
old tortoise   | he  | Tortoise
kind farmer    | he  | sir
old fisherman  | he  | sir
friendly baker | she | Baker
gray horse     | she | Horse
old gardener   | he  | sir
kind teacher   | she | Teacher
friendly crow  | he  | Crow
big cow        | she | Cow
wise toad      | he  | Toad
""")

SMALL = lines("""
baby bird
tiny ant
snail
butterfly
ladybug
bee
duckling
chick
caterpillar
sparrow
beetle
little fish
baby owl
lizard
cricket
""")

COLORS = words("""
    red blue green yellow white purple orange pink golden silver brown
""")

TOYS = lines("""
ball
kite
doll
teddy bear
toy car
toy boat
drum
wagon
book
puzzle
toy train
balloon
whistle
yo-yo
wooden horse
toy truck
jump rope
""")

BELONGINGS = lines("""
hat
scarf
ring
key
bell
button
cup
basket
umbrella
blanket
ribbon
bag
spoon
feather
marble
coin
mitten
shell
necklace
watch
""")

FOODS = lines("""
apple
cookie
pear
sandwich
muffin
banana
cupcake
orange
peach
pie
carrot
bun
pancake
plum
slice of bread
piece of cake
bowl of soup
bag of nuts
basket of berries
""")

FRAGILE = lines("""
vase
blue plate
tea cup
lamp
window
flower pot
clock
glass bowl
picture frame
mirror
""")

GIFTS = lines("""
necklace of shells
warm scarf
little drum
picture of the two of them
crown of flowers
wooden boat
jar of honey
soft pillow
little basket
box of cookies
kite with a long tail
paper star
""")

# Plain form, -ing form, past form.
HOBBIES = table("""
play outside       | playing outside       | played outside
sing               | singing               | sang
run and jump       | running and jumping   | ran and jumped
dance              | dancing               | danced
look at the clouds | looking at the clouds | looked at the clouds
pick flowers       | picking flowers       | picked flowers
climb trees        | climbing trees        | climbed trees
tell stories       | telling stories       | told stories
draw pictures      | drawing pictures      | drew pictures
watch the birds    | watching the birds    | watched the birds
play in the mud    | playing in the mud    | played in the mud
collect stones     | collecting stones     | collected stones
chase butterflies  | chasing butterflies   | chased butterflies
splash in puddles  | splashing in puddles  | splashed in puddles
play hide and seek | playing hide and seek | played hide and seek
blow bubbles       | blowing bubbles       | blew bubbles
roll down hills    | rolling down hills    | rolled down hills
""")

# Plain form, -ing form, past form, what goes wrong at first.
SKILLS = table("""
swim           | swimming          | swam             | swallowed some water
ride a bike    | riding a bike     | rode the bike    | fell off the bike
fly a kite     | flying a kite     | flew the kite    | got the string in a knot
whistle        | whistling         | whistled         | made no sound at all
jump rope      | jumping rope      | jumped rope      | tripped over the rope
skate          | skating           | skated           | slipped and fell down
climb a tree   | climbing a tree   | climbed the tree | slid back down
catch a ball   | catching a ball   | caught the ball  | dropped the ball
bake bread     | baking bread      | baked the bread  | burned the bread
play the drum  | playing the drum  | played the drum  | lost the beat
paint a flower | painting a flower | painted a flower | spilled the paint
read           | reading           | read             | mixed up the letters
write a letter | writing a letter  | wrote a letter   | broke the pencil
row a boat     | rowing a boat     | rowed the boat   | went around in a circle
dance          | dancing           | danced           | stepped the wrong way
knit a scarf   | knitting a scarf  | knitted a scarf  | dropped the yarn
""")

# Name, and the preposition of being there.
PLACES = table("""
park         | in
garden       | in
forest       | in
meadow       | in
beach        | on
hill         | on
river        | by
farm         | on
lake         | by
field        | in
playground   | on
old barn     | near
orchard      | in
pond         | by
village      | in
woods        | in
stream       | by
big oak tree | under
""")

SPOTS = lines("""
under the bench
behind the big tree
in the tall grass
under a bush
behind a rock
by the old fence
in a pile of leaves
under the bridge
inside a hollow log
near the gate
between the flowers
under the steps
behind the wall
in the sand
next to the well
under a cart
in the hay
behind the shed
by the water
under a mushroom
""")

CHILD_HOMES = lines("""
in a small house by the sea
in a little town
near a big forest
in a small village
in a house with a red door
on a farm
in a yellow house on a hill
with {hero.his} mom and dad
with {hero.his} grandma
at the end of a quiet street
near a river
next to a bakery
""")

ANIMAL_HOMES = lines("""
under an old tree
in a cozy den
in a big forest
on a farm
by a quiet pond
near the river
in a little hut in the woods
at the edge of the forest
in a green valley
behind a barn
at the foot of a hill
in a warm nest of leaves
with {hero.his} family in the woods
""")

# What to build, what of, how it fails at first, what it needs.
PROJECTS = table("""
tree house   | old boards                 | the roof fell in          | more nails
sandcastle   | wet sand                   | a wave washed over it     | a wall of stones
boat         | sticks and bark            | it began to sink          | a better sail and some string
tower        | wooden blocks              | it fell over with a crash | a bigger bottom
bridge       | logs                       | it broke in the middle    | a strong rope
kite         | paper and string           | the paper tore            | some tape
snowman      | fresh snow                 | the head fell off         | more snow around the neck
birdhouse    | small boards               | it was too small          | a bigger box
fort         | pillows and blankets       | the walls came down       | two chairs
swing        | a rope and a board         | the knot came loose       | a better knot
cart         | an old box and four wheels | a wheel rolled away       | a strong pin
little house | branches and leaves        | the wind blew it over     | some heavy stones
""")

# What is feared, how it shows itself, what takes the fear away.
FEARS = table("""
the dark                   | The room was dark and quiet              | The dark is only the day taking a nap
thunder                    | There was a loud boom in the sky         | Thunder is only the clouds playing the drums
deep water                 | The water looked deep and cold           | The water will hold you if you stay calm
high places                | The ladder was very tall                 | You only need to take one small step at a time
the big dog next door      | The big dog barked at the gate           | He only barks because he wants to play
the old house              | The old house had dark windows           | An empty house is only sad that nobody visits
the wind                   | The wind howled around the walls         | The wind is only singing its song
loud noises                | There was a loud bang                    | A noise can not hurt you
singing in front of others | Everyone was looking                     | Your friends will love your song
the long bridge            | The bridge moved in the wind             | Look ahead and not down
the first day of school    | The school was big and full of new faces | Every face is a friend you do not know yet
""")

# Seed, how the plant looks, what it turns out to be.
PLANTS = table("""
sunflower | It was as tall as a door  | a big yellow sunflower
pumpkin   | It was round and heavy    | a fat orange pumpkin
apple     | It had tiny white flowers | a young apple tree
bean      | It climbed up and up      | a long green bean plant
rose      | It smelled so sweet       | a lovely red rose
carrot    | It had soft green leaves  | a long orange carrot
tomato    | It was round and shiny    | a plump red tomato
melon     | It was green and cool     | a big sweet melon
""")

# Dish, and four things that go in.
DISHES = table("""
cake          | flour   | eggs     | sugar  | butter
soup          | carrots | potatoes | beans  | salt
apple pie     | apples  | flour    | butter | honey
fruit salad   | pears   | berries  | plums  | honey
loaf of bread | flour   | water    | salt   | seeds
berry jam     | berries | sugar    | lemon  | honey
pot of stew   | onions  | carrots  | beans  | corn
pizza         | cheese  | tomatoes | flour  | herbs
""")

# What is found, what is inside.
FINDS = table("""
wooden box   | an old map
tin box      | seven shiny coins
little chest | a silver flute
glass bottle | a letter from far away
leather bag  | a pile of smooth stones
small jar    | a glowing light
round basket | a sleeping kitten
paper bag    | a dozen flower seeds
heavy trunk  | funny hats and masks
dusty box    | a music box
blue jar     | colorful glass beads
old pot      | golden honey
""")

# The wish, how it comes true.
WISHES = table("""
a friend to play with            | a new friend knocked at the door
snow                             | white snow began to fall
a garden full of flowers         | flowers opened everywhere
a song that makes everyone smile | a sweet song filled the air
rain for the dry fields          | soft rain began to fall
a warm bed for every animal      | every nest was soft and warm
enough food for everyone         | the table was full of good things
a light that never goes out      | a small light shone in the window
""")

# What not to do, what happens, how that feels.
FORBIDDEN = table("""
go near the deep river  | fell into the water            | wet and cold
eat all the berries     | got a bad tummy ache           | sick and sorry
touch the hot pot       | burned one finger              | sore and sad
climb the old wall      | slid down and scraped one knee | sore and scared
go into the woods alone | could not find the way back    | lost and afraid
open the gate           | saw all the sheep run away     | worried and sorry
play with the honey jar | got sticky from head to toe    | sticky and sorry
stay out after dark     | lost the path in the dark      | cold and tired
""")
